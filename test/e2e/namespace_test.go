package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

func init() {
	// Words: the program, the backing, a directory to mount on, and whether the server
	// stays in the foreground.
	rig.Helper("contain", func(w []string) error {
		return contain(w[0], w[1], w[2], w[3] == "true")
	})
}

// contain is a container whose root is a mount of its own: it serves the backing, mounts
// its file system, writes a file and waits to be killed.
func contain(program, backing, dir string, foreground bool) error {
	const root = "/run/e2e-root"
	if err := errors.Join(os.MkdirAll(root, 0o755), unix.Mount("/", root, "",
		unix.MS_BIND|unix.MS_REC, ""), unix.Chdir(root),
		unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/")); err != nil {
		return fmt.Errorf("a root of its own: %w", err)
	}
	cmd := exec.Command(program, "start", backing)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if foreground {
		cmd.Args = append(cmd.Args, "--foreground")
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var dev string
	if _, err := fmt.Fscanln(out, &dev); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := os.WriteFile(dir+"/kept", []byte("kept"), 0o644); err != nil {
		return err
	}
	unix.Sync()
	if err := os.WriteFile(dir+"/dirty", make([]byte, 4<<20), 0o644); err != nil {
		return err
	}
	rig.Ready(dev)
	return nil
}

// TestKilledWithItsMountNamespace: a container in which the server was started, and in
// which its device is mounted, is killed, and the server with it. The server ends, and its
// device can be recovered.
func TestKilledWithItsMountNamespace(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedRoot(t)
	vmtest.OnOneKernel(t)
	for _, foreground := range []bool{false, true} {
		t.Run(fmt.Sprintf("foreground=%v", foreground),
			func(t *testing.T) { testKilledWithNamespace(t, foreground) })
	}
}

func testKilledWithNamespace(t *testing.T, foreground bool) {
	rig.Guard(t, 3*time.Minute)
	d := rig.NewDisk(t, rig.KindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	s.Start(t)
	rig.Mkfs(t, "ext4", s.Dev)
	s.Stop(t)
	dir := t.TempDir()
	container := rig.StartHelper(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS,
		Setsid: true}, "contain", vmtest.Binary(t), d.Path, dir, fmt.Sprint(foreground))
	s.Dev = container.Words[0]
	server := s.Status(t).ServerPID
	leanMounts(t, server)
	for _, pid := range []int{server, container.Cmd.Process.Pid} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	rig.Until(t, "the end of the killed server", func() bool { return !rig.Alive(server) })
	// The container's last process unmounts, and may wait for the device until it is served again.
	s.Started(t, rig.Remap(t, s.StartLine()...))
	container.End()
	rig.Run(t, "mount", "-t", "ext4", s.Dev, dir)
	kept, err := os.ReadFile(dir + "/kept")
	if err != nil || string(kept) != "kept" {
		t.Errorf("what was written says %q: %v", kept, err)
	}
	rig.Unmount(t, dir)
	rig.Fsck(t, "ext4", s.Dev)
}

// leanMounts checks that a server has a mount namespace of its own, with nothing in it that
// is not the kernel's or holds the runtime directory.
func leanMounts(t testing.TB, pid int) {
	t.Helper()
	mine, err1 := os.Readlink("/proc/self/ns/mnt")
	its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err := errors.Join(err1, err2); err != nil || mine == its {
		t.Fatalf("the server's mount namespace is %s, this is %s: %v", its, mine, err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		point := strings.Fields(line)[4]
		_, tail, _ := strings.Cut(line, " - ")
		kind := strings.Fields(tail)[0]
		if !slices.Contains([]string{"/", "/run"}, point) &&
			!slices.Contains([]string{"devtmpfs", "proc", "sysfs", "cgroup2"}, kind) {
			t.Errorf("the server has mounted: %s", line)
		}
	}
}

// TestServersOwnMounts: what the caller has mounted is not kept busy by the server, what it
// mounts later does not come to it, and the server finds its own files anyway. It is
// called by its name.
func TestServersOwnMounts(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedRoot(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 3*time.Minute)
	d := rig.NewDisk(t, rig.KindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	before := t.TempDir()
	if err := errors.Join(unix.Mount("none", "/", "", unix.MS_SHARED|unix.MS_REC, ""),
		unix.Mount("before", before, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Mount("none", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") }()
	s.Start(t)
	pid := s.Status(t).ServerPID
	after := t.TempDir()
	if err := unix.Mount("after", after, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	leanMounts(t, pid)
	if err := errors.Join(unix.Unmount(after, 0), unix.Unmount(before, 0)); err != nil {
		t.Error(err)
	}
	comm, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	words, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err := errors.Join(err1, err2); err != nil || string(comm) != "ublk-remap\n" ||
		!strings.HasPrefix(string(words), "@ublk-remap\x00start\x00") {
		t.Errorf("the server is called %q, its command line is %q: %v", comm, words, err)
	}
	s.Stop(t)
	if left, err := filepath.Glob(s.RunFile(".json")); err != nil ||
		len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
