package rig

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mkfs makes a file system, ext4 or xfs.
func Mkfs(t testing.TB, fs, dev string, args ...string) {
	t.Helper()
	NeedBlockDevice(t, dev)
	args = append(args, dev)
	if fs == "ext4" {
		Run(t, "mkfs.ext4", append([]string{"-q", "-F"}, args...)...)
		return
	}
	// mkfs.xfs refuses to make less than 300 MB since xfsprogs 5.19, but for
	// this undocumented option that came with the refusal.
	r := Exec(t, "mkfs.xfs", append([]string{"-q", "-f", "--unsupported"}, args...)...)
	if r.Code != 0 && strings.Contains(r.Stderr, "unrecognized option") {
		r = Exec(t, "mkfs.xfs", append([]string{"-q", "-f"}, args...)...)
	}
	r.Want(t, 0)
}

// Mount mounts a set's device in a new directory. It is unmounted when the
// test ends, if it still is mounted then.
func (s *Set) Mount(t testing.TB, fs string) string {
	t.Helper()
	dir := t.TempDir()
	Run(t, "mount", "-t", fs, s.Dev, dir)
	t.Cleanup(func() {
		if !mounted(dir) || Hung() {
			return
		}
		if s.pid.Load() == 0 && s.Dev != "" {
			// Without a server it would hang.
			_ = Remap(t, s.StartLine()...)
		}
		Unmount(t, dir)
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

// Unmount unmounts what is mounted at dir.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	Run(t, "umount", dir)
}

// Fsck fails the test unless the file system, not mounted, is clean.
func Fsck(t testing.TB, fs, dev string) {
	t.Helper()
	if fs == "ext4" {
		Run(t, "e2fsck", "-f", "-n", dev)
		return
	}
	Run(t, "xfs_repair", "-n", dev)
}

// Trim discards what a mounted file system does not use (FITRIM, see
// include/uapi/linux/fs.h), as fstrim(8) does.
func Trim(t testing.TB, dir string) {
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

// SyncFS makes a file system durable. Its error is the file system's, which sync(1) would not
// report.
func SyncFS(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	}
	if err != nil {
		t.Fatalf("syncfs %s: %v", dir, err)
	}
}
