package hostile

import (
	"path/filepath"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestMemberOfAnArray: a member of an array cannot be used as a disk, even if the metadata on it is
// this program's. The array itself is a disk like any other. While it is served, its members cannot
// be used either.
func TestMemberOfAnArray(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	a := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	b := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	rig.Create(t, a, "", "--spare", "1MiB")
	backup := filepath.Join(t.TempDir(), "backup")
	rig.Remap(t, "metadata", "backup", a, backup).Want(t, 0)

	array := vmtest.NewMirroredArray(t, diskSize-1<<20, a, b)
	members := func(when string) {
		t.Helper()
		for _, m := range []string{a, b} {
			refusal(t, "create on a member, "+when, rig.Remap(t, "create", m, "--force", "--yes"),
				rig.ExitRefused, "md99")
			refusal(t, "convert a member, "+when, rig.Remap(t, "create", m, "--in-place",
				"--force", "--yes"), rig.ExitRefused, "md99")
		}
		refusal(t, "start of a member, "+when, rig.Remap(t, "start", a), rig.ExitRefused)
		refusal(t, "release of a member, "+when, rig.Remap(t, "release", a, "--yes"),
			rig.ExitRefused,
			"md99")
		mendRefused(t, "a member, "+when, a, backup)
		refusal(t, "a member as spare device, "+when, rig.Remap(t, "create", array, "--force",
			"--yes", "--spare-device", b), rig.ExitRefused)
	}
	members("in an array")
	nothingLeft(t)

	s := rig.Create(t, array, "", "--spare", "1MiB", "--force")
	s.Start(t)
	members("served as an array")
	dev := rig.Open(t, s.Dev)
	dev.Fill(t, 0, dev.Size, 3)
	must(t, dev.Flush())
	dev.Close()
	s.Stop(t)
	s.Check(t)
}
