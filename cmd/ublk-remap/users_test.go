package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// sharedUses are the uses of a disk that exclusive use does not prevent. Each one takes the disk
// into use. It returns the text that the message must contain, and a function that ends the use.
var sharedUses = []struct {
	what string
	use  func(t *testing.T, disk string) (says string)
}{
	{"an idle loop device over it", func(t *testing.T, disk string) string {
		return vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: disk})
	}},
	{"a mounted loop device over it", func(t *testing.T, disk string) string {
		return "mounted on " + mountOver(t, vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: disk}))
	}},
	{"a loop device over a loop device over it", func(t *testing.T, disk string) string {
		lower := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: disk})
		return "mounted on " + mountOver(t, vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: lower}))
	}},
	{"a loop device over it, mounted in another namespace", func(t *testing.T, disk string) string {
		loop, dir := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: disk}), t.TempDir()
		vmtest.Run(t, "mkfs.ext4", "-q", "-F", loop)
		pid := rig.MountElsewhere(t, loop, dir).Cmd.Process.Pid
		return fmt.Sprintf("mounted on %s in the mount namespace of process %d", dir, pid)
	}},
	{"a process that writes to it", func(t *testing.T, disk string) string {
		return fmt.Sprintf("open in process %d", rig.HoldOpen(t, disk, "w").Cmd.Process.Pid)
	}},
}

func mountOver(t *testing.T, dev string) string {
	t.Helper()
	vmtest.Run(t, "mkfs.ext4", "-q", "-F", dev)
	dir := t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// TestUsedDiskIsNotWritten: while a disk is in use, in whatever way, no verb that would write to it
// begins.
func TestUsedDiskIsNotWritten(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedRoot(t)
	vmtest.NeedTools(t, "mkfs.ext4")
	useRuntimeDir(t)
	for _, u := range sharedUses {
		t.Run(u.what, func(t *testing.T) {
			disk := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			backup := filepath.Join(t.TempDir(), "backup")
			for _, args := range [][]string{{"create", disk, "--yes"}, {"metadata", "backup", disk,
				backup}} {
				if r := withLimit(t, args...); r.code != 0 {
					t.Fatal(args, r.err)
				}
			}
			says := u.use(t, disk)
			before := sum(t, disk)
			verbs := [][]string{{"create", disk, "--force", "--yes"}, {"create", disk, "--force",
				"--yes", "--in-place"}, {"metadata", "restore", disk, backup, "--yes"}}
			if !strings.HasPrefix(says, "mounted on") { // then nothing is left of the set
				verbs = append(verbs, []string{"release", disk, "--yes"},
					[]string{"metadata", "repair", disk, "--yes"})
			}
			if strings.HasPrefix(says, "open in") { // each of these verbs waits for a while
				verbs = [][]string{verbs[0], verbs[3]}
			}
			for _, args := range verbs {
				refusedWith(t, strings.Join(args, " "), withLimit(t, args...), exit.Refused,
					"in use", says)
			}
			if sum(t, disk) != before {
				t.Error("something was changed")
			}
		})
	}
}

// TestReadersAreNoUsers: a process that only reads the disk, such as a monitor, does not prevent a
// verb. A process that has it open for a moment is waited for.
func TestReadersAreNoUsers(t *testing.T) {
	vmtest.NeedRoot(t)
	useRuntimeDir(t)
	disk := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
	pid := rig.HoldOpen(t, disk, "r").Cmd.Process.Pid
	if r := withLimit(t, "create", disk, "--yes"); r.code != 0 {
		t.Errorf("with a reader: %s", r.err)
	}
	users := blockdev.UsersOf(disk)
	if len(users) != 1 || users[0].Kind != blockdev.UserProcess || users[0].PID != pid ||
		users[0].Writes {
		t.Errorf("users: %+v", users)
	}
}

// TestUsersBelow: a loop device over the disk below a driver reaches the same blocks.
func TestUsersBelow(t *testing.T) {
	vmtest.NeedRoot(t)
	vmtest.NeedTools(t, "mkfs.ext4")
	useRuntimeDir(t)
	lower := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
	loop := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: lower})
	disk := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n", hostileSize/512, lower)).Path
	if r := withLimit(t, "create", disk, "--dry-run"); r.code != 0 {
		t.Errorf("beside an idle loop device: %s", r.err)
	}
	dir := mountOver(t, loop)
	refusedWith(t, "create", withLimit(t, "create", disk, "--force", "--yes"), exit.Refused,
		"in use", "mounted on "+dir)
}
