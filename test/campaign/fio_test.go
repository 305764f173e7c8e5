package campaign

import (
	"testing"

	"ublkremap/test/rig"
)

// startFio starts a job that verifies what it writes, on a file that is there or on a
// device. args are options without the dashes.
func startFio(t *testing.T, file string, args ...string) *rig.Fio {
	t.Helper()
	return rig.StartFio(t, file, append([]string{"verify=crc32c", "randrepeat=1",
		"allow_file_create=0"}, args...)...)
}

// verified waits for the end of a job, which must be without an error, and which must
// have read back what it wrote.
func verified(t *testing.T, f *rig.Fio) rig.FioReport {
	t.Helper()
	r := f.Done(t)
	if r.ReadBytes == 0 {
		t.Fatal("fio has verified nothing")
	}
	return r
}
