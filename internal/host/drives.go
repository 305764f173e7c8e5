package host

import (
	"ublkremap/internal/control"
	"ublkremap/internal/drive"
)

// Drives sets the error recovery limits of this machine's disks, and restores them.
func Drives() *drive.Host { return drive.New(control.Dir(), uses) }

// uses reports whether a set is served here, or has a device that waits for a server.
func uses(name string) bool {
	if control.Owned(name) {
		return true
	}
	_, err := control.ReadRecord(name)
	return err == nil
}

// withDisks adds to a status what is set for the disks of its record, and which of them are gone.
func withDisks(st *control.Status, r *control.Record) *control.Status {
	st.ErrorRecovery = Drives().Report(r.Name, DisksOf(r))
	st.Missing = missing(DisksOf(r))
	return st
}

// DisksOf returns the paths of the backing and the spare devices of a record.
func DisksOf(r *control.Record) []string { return append([]string{r.Backing}, r.Spares...) }
