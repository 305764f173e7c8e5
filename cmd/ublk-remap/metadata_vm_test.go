package main

import (
	"os"
	"path/filepath"
	"testing"

	"ublkremap/internal/blockdev"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestBackupOffTheDisk: a backup is refused on any file system on a device of the set, also through
// device mapper, a loop device over such a device, or a loop device over a file there.
func TestBackupOffTheDisk(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	other := vmtest.NewLoop(t, 1<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", disk, "--name", "copied")
	dev := rig.StartDevice(t, disk)
	mapped := vmtest.NewDM(t, vmtest.ErrorTable(t, dev))
	above := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: mapped.Path})
	vmtest.Mkfs(t, "ext4", above)
	dir := vmtest.Mount(t, "ext4", above)
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 16<<20); err != nil {
		t.Fatal(err)
	}
	inside := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
	vmtest.Mkfs(t, "ext4", inside)
	deep := vmtest.Mount(t, "ext4", inside)
	for _, d := range []string{dir, deep} {
		rig.Want(t, rig.ExitRefused, "metadata", "backup", dev, filepath.Join(d, "backup"))
		for device, want := range map[string]bool{dev: true, mapped.Path: true, above: true,
			inside: d == deep, other: false, disk: false, "/dev/missing": false} {
			on, err := blockdev.RestsOn(d, []string{device})
			if err != nil || on != want {
				t.Errorf("%s is on %s: %v, %v", d, device, on, err)
			}
		}
	}
	if _, err := blockdev.RestsOn(filepath.Join(dir, "missing"), nil); err == nil {
		t.Error("no error for a directory that does not exist")
	}
	rig.Want(t, 0, "metadata", "backup", dev, filepath.Join(t.TempDir(), "backup"))
}
