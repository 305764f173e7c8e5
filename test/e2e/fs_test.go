package e2e

import (
	"math"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// run runs a program, which must exit with 0 within the limit.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	launch(t, name, args...).wait(t, limit).want(t, 0)
}

// mkfs makes a file system.
func mkfs(t testing.TB, fs, dev string) {
	t.Helper()
	needBlockDevice(t, dev)
	if fs == "ext4" {
		run(t, "mkfs.ext4", "-q", "-F", dev)
		return
	}
	// mkfs.xfs refuses to make less than 300 MB since xfsprogs 5.19, but for
	// this undocumented option that came with the refusal.
	r := launch(t, "mkfs.xfs", "-q", "-f", "--unsupported", dev).wait(t, limit)
	if r.code != 0 && strings.Contains(r.stderr, "unrecognized option") {
		run(t, "mkfs.xfs", "-q", "-f", dev)
		return
	}
	r.want(t, 0)
}

// mount mounts a set's device in a new directory. It is unmounted when the
// test ends, if it still is mounted then.
func mount(t testing.TB, fs string, s *set) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-t", fs, s.dev, dir)
	t.Cleanup(func() {
		if !mounted(dir) {
			return
		}
		if s.pid.Load() == 0 {
			// Without a server it would hang.
			_ = remap(t, s.startLine()...)
		}
		umount(t, dir)
	})
	return dir
}

// mounted says whether a directory is a mount point: it is then on another
// device than its parent.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(dir+"/..", &above) == nil &&
		here.Dev != above.Dev
}

func umount(t testing.TB, dir string) {
	t.Helper()
	run(t, "umount", dir)
}

// fsck fails the test unless the file system, not mounted, is clean.
func fsck(t testing.TB, fs, dev string) {
	t.Helper()
	if fs == "ext4" {
		run(t, "e2fsck", "-f", "-n", dev)
		return
	}
	run(t, "xfs_repair", "-n", dev)
}

// trim discards what a mounted file system does not use (FITRIM, see
// include/uapi/linux/fs.h), as fstrim(8) does.
func trim(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const fitrim = 0xc0185879
	r := struct{ start, length, least uint64 }{length: math.MaxUint64}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim,
		uintptr(unsafe.Pointer(&r))); errno != 0 {
		t.Fatalf("FITRIM: %v", errno)
	}
	if r.length == 0 {
		t.Error("FITRIM trimmed nothing")
	}
}
