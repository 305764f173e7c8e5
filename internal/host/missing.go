package host

import (
	"errors"
	"io/fs"
	"os"

	"ublkremap/internal/control"
)

// Missing returns the paths of the disks of a device that are not on this host: they were pulled
// out, or died so that the kernel removed them. A disk that comes back under another name counts as
// missing until a server has it by that name.
func Missing(st *control.Status) (all []string) {
	disks := []string{st.Backing}
	if r, err := control.ReadRecord(st.Name); err == nil {
		disks = DisksOf(r)
	}
	for _, d := range disks {
		if _, err := os.Stat(d); d != "" && errors.Is(err, fs.ErrNotExist) {
			all = append(all, d)
		}
	}
	return all
}
