package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
)

// helperEnv makes this test binary a helper process of its own tests: a verb and its arguments.
const helperEnv = "UBLK_REMAP_TEST_HELPER"

// TestHelper is no test: it is what helper starts. It says that it is ready, and ends when
// its standard input does.
func TestHelper(t *testing.T) {
	args := strings.Fields(os.Getenv(helperEnv))
	if len(args) == 0 {
		t.Skip("only for other tests")
	}
	switch args[0] {
	case "mount": // DEVICE DIR, in a mount namespace of its own
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(t, unix.Mount(args[1], args[2], "ext4", 0, ""))
	// DIR PROGRAM DISK: serves it as a container would, with files of its own in DIR
	case "contain":
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
		cmd := exec.Command(args[2], "start", args[3])
		cmd.Env = append(os.Environ(), control.DirEnv+"="+args[1], helperEnv+"=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	case "read": // DEVICE: eight sectors from the 100000th on
		fd, err := unix.Open(args[1], unix.O_RDONLY|unix.O_DIRECT, 0)
		must(t, err)
		buf, err := blockdev.Aligned(4096)
		must(t, err)
		if n, err := unix.Pread(fd, buf, 100000*512); n != len(buf) || err != nil {
			t.Fatal(n, err)
		}
		return
	case "open": // DEVICE r|w
		flag := map[string]int{"r": os.O_RDONLY, "w": os.O_RDWR}[args[2]]
		f, err := os.OpenFile(args[1], flag, 0)
		must(t, err)
		defer f.Close()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// helper starts a helper process and returns its number and what ends it.
func helper(t *testing.T, flags uintptr, args ...string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.v")
	cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join(args, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("no process of this kind here: %v", err)
	}
	done := false
	end = func() {
		if !done {
			done = true
			must(t, in.Close())
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return cmd.Process.Pid, end
		}
		if strings.Contains(lines.Text(), "operation not permitted") {
			t.Skip(lines.Text())
		}
	}
	t.Fatalf("the helper %v ended before it was ready", args)
	return 0, nil
}

// sharedUses are the uses of a disk that exclusive use of it does not keep away. Each brings the
// disk into use and returns what is said of it.
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
		pid, _ := helper(t, unix.CLONE_NEWNS, "mount", loop, dir)
		return fmt.Sprintf("mounted on %s in the mount namespace of process %d", dir, pid)
	}},
	{"a process that writes to it", func(t *testing.T, disk string) string {
		pid, _ := helper(t, 0, "open", disk, "w")
		return fmt.Sprintf("open in process %d", pid)
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

// TestUsedDiskIsNotWritten: whoever uses a disk in whatever way, no verb that would write
// to it begins.
func TestUsedDiskIsNotWritten(t *testing.T) {
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
			if !strings.HasPrefix(says, "mounted on") { // of the set is nothing left then
				verbs = append(verbs, []string{"release", disk, "--yes"},
					[]string{"metadata", "repair", disk, "--yes"})
			}
			if strings.HasPrefix(says, "open in") { // each waits for it a while
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

// TestReadersAreNoUsers: a process that only reads the disk, such as a monitor, is in nobody's way,
// and one that has it open for a moment is waited for.
func TestReadersAreNoUsers(t *testing.T) {
	vmtest.NeedRoot(t)
	useRuntimeDir(t)
	disk := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
	pid, _ := helper(t, 0, "open", disk, "r")
	if r := withLimit(t, "create", disk, "--yes"); r.code != 0 {
		t.Errorf("with a reader: %s", r.err)
	}
	users := blockdev.Users(disk)
	if len(users) != 1 || users[0].Kind != blockdev.UserProcess || users[0].PID != pid ||
		users[0].Writes {
		t.Errorf("users: %+v", users)
	}
}

// TestUsersBelow: a driver's disk is reached by a loop device over what is below it.
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
