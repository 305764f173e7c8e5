package vmtest

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Mkfs makes a file system of type ext4 or xfs on dev.
func Mkfs(t testing.TB, fstype, dev string, args ...string) {
	t.Helper()
	tool := "mkfs." + fstype
	NeedTools(t, tool)
	force := map[string]string{"ext4": "-F", "xfs": "-f"}[fstype]
	Run(t, tool, append([]string{"-q", force}, append(args, dev)...)...)
}

// Mount mounts dev in a new directory and returns it. It is unmounted when
// the test ends, if it still is mounted then.
func Mount(t testing.TB, fstype, dev string) string {
	t.Helper()
	NeedRoot(t)
	_ = modprobe(fstype)
	dir := t.TempDir()
	if err := unix.Mount(dev, dir, fstype, 0, ""); err != nil {
		t.Fatalf("mount %s: %v", dev, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err == unix.EBUSY {
			Unmount(t, dir)
		}
	})
	return dir
}

// Unmount unmounts what is mounted at dir, waiting for files to be closed.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	if err := retry(10*time.Second, func() error { return unix.Unmount(dir, 0) }); err != nil {
		t.Errorf("umount %s: %v", dir, err)
	}
}

// Fsck fails the test unless the file system on dev, not mounted, is clean.
func Fsck(t testing.TB, fstype, dev string) {
	t.Helper()
	switch fstype {
	case "ext4":
		Run(t, "e2fsck", "-f", "-n", dev)
	case "xfs":
		Run(t, "xfs_repair", "-n", dev)
	default:
		t.Fatalf("no check for file system %s", fstype)
	}
}
