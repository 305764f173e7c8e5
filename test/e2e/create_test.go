package e2e

import (
	"testing"

	"ublkremap/test/rig"
)

// create writes metadata on the disk. When the test ends the device is
// stopped, and the metadata must be valid.
func create(t testing.TB, d *rig.Disk, args ...string) *rig.Set {
	t.Helper()
	s := rig.Create(t, d.Path, "", args...)
	s.CheckAtEnd(t)
	return s
}
