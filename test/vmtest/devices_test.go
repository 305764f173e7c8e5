package vmtest

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aligned returns n bytes at an address that direct I/O takes.
func aligned(n int) []byte {
	const align = 4096
	b := make([]byte, n+align)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (align - 1))
	return b[off : off+n : off+n]
}

func openDirect(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// wantIO reads and writes count sectors and expects these errors.
func wantIO(t *testing.T, fd int, e Extent, readErr, writeErr error) {
	t.Helper()
	b := aligned(int(e.Count) * 512)
	if _, err := unix.Pread(fd, b, e.Start*512); !errors.Is(err, readErr) {
		t.Errorf("read of %v: %v, want %v", e, err, readErr)
	}
	if _, err := unix.Pwrite(fd, b, e.Start*512); !errors.Is(err, writeErr) {
		t.Errorf("write of %v: %v, want %v", e, err, writeErr)
	}
}

func TestLoopAndDM(t *testing.T) {
	disk := NewLoop(t, 16<<20, LoopOptions{})
	if got := Sectors(t, disk); got != 16<<20/512 {
		t.Fatalf("loop device of %d sectors", got)
	}
	d := NewDM(t, ErrorTable(t, disk, Extent{100, 8}, Extent{1000, 1}))
	fd := openDirect(t, d.Path)
	wantIO(t, fd, Extent{92, 8}, nil, nil)
	wantIO(t, fd, Extent{100, 8}, unix.EIO, unix.EIO)
	wantIO(t, fd, Extent{107, 2}, unix.EIO, unix.EIO)
	wantIO(t, fd, Extent{1000, 1}, unix.EIO, unix.EIO)

	d.Swap(t, LinearTable(t, disk))
	wantIO(t, fd, Extent{100, 8}, nil, nil)
	d.Swap(t, GoneTable(t, disk))
	wantIO(t, fd, Extent{0, 8}, unix.EIO, unix.EIO)
}

func TestLoopBlockSize(t *testing.T) {
	disk := NewLoop(t, 16<<20, LoopOptions{BlockSize: 4096})
	fd := openDirect(t, disk)
	if size, err := unix.IoctlGetInt(fd, unix.BLKSSZGET); err != nil || size != 4096 {
		t.Fatalf("block size %d, %v", size, err)
	}
	wantIO(t, fd, Extent{8, 1}, unix.EINVAL, unix.EINVAL)
	wantIO(t, fd, Extent{8, 8}, nil, nil)
}

// The true errno of what lies below passes through a loop device only with
// direct I/O; so does data.
func TestLoopPassesErrors(t *testing.T) {
	disk := NewLoop(t, 16<<20, LoopOptions{})
	d := NewDM(t, ErrorTable(t, disk, Extent{800, 8}))
	upper := NewLoop(t, 0, LoopOptions{File: d.Path})
	wantIO(t, openDirect(t, upper), Extent{800, 8}, unix.EIO, unix.EIO)
	wantIO(t, openDirect(t, upper), Extent{808, 8}, nil, nil)
}

func TestFlakey(t *testing.T) {
	disk := NewLoop(t, 16<<20, LoopOptions{})
	d := NewDM(t, FlakeyTable(t, disk, 0, 1, "error_writes"))
	fd := openDirect(t, d.Path)
	wantIO(t, fd, Extent{0, 8}, nil, unix.EIO)
	d.Swap(t, DelayTable(t, disk, 0, 1))
	wantIO(t, fd, Extent{0, 8}, nil, nil)
}

func TestLogWrites(t *testing.T) {
	NeedRoot(t)
	disk, log := NewLoop(t, 16<<20, LoopOptions{}), NewLoop(t, 32<<20, LoopOptions{})
	d := NewDM(t, "0 32768 log-writes "+disk+" "+log+"\n")
	fd := openDirect(t, d.Path)
	wantIO(t, fd, Extent{0, 8}, nil, nil)
	d.Message(t, 0, "mark", "here")
	if err := unix.Fsync(fd); err != nil {
		t.Fatal(err)
	}
	// WRITE_LOG_MAGIC of drivers/md/dm-log-writes.c, at the log's beginning.
	const magic = 0x6a736677736872
	// A kernel thread writes it, after the flush that it is about was answered.
	head, logFD := aligned(4096), openDirect(t, log)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := unix.Pread(logFD, head, 0); err != nil {
			t.Fatal(err)
		}
		got := binary.LittleEndian.Uint64(head)
		if got == magic {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log begins with %#x, want %#x", got, uint64(magic))
		}
	}
}

func TestNullBlk(t *testing.T) {
	n := NewNullBlk(t, NullBlkOptions{Bad: []Extent{{96, 8}}})
	fd := openDirect(t, n.Path)
	wantIO(t, fd, Extent{88, 8}, nil, nil)
	wantIO(t, fd, Extent{96, 8}, unix.EIO, unix.EIO)
	n.AddBad(t, Extent{200, 1})
	wantIO(t, fd, Extent{200, 1}, unix.EIO, unix.EIO)
	n.RemoveBad(t, Extent{96, 8}, Extent{200, 1})
	wantIO(t, fd, Extent{96, 8}, nil, nil)
	wantIO(t, fd, Extent{200, 1}, nil, nil)
}

func TestScsiDebug(t *testing.T) {
	d := NewScsiDebug(t, "dev_size_mb=64")
	fd := openDirect(t, d.Path)
	wantIO(t, fd, Extent{4656, 8}, nil, nil)
	d.SetMediumErrors(t, 4656, 8)
	wantIO(t, fd, Extent{4656, 8}, unix.ENODATA, nil)
	wantIO(t, fd, Extent{4656, 8}, unix.ENODATA, nil) // a write heals nothing
	d.SetMediumErrors(t, 0, 0)
	wantIO(t, fd, Extent{4656, 8}, nil, nil)
}

func TestScsiDebugInject(t *testing.T) {
	d := NewScsiDebug(t, "dev_size_mb=64")
	fd := openDirect(t, d.Path)
	wantIO(t, fd, Extent{0, 8}, nil, nil)
	// WRITE(10) fails with a medium error. The kernel makes ENODATA of the
	// additional sense code 0x11 only; 0x0c (write error), which real disks
	// send, comes out as EIO (drivers/scsi/scsi_error.c, scsi_check_sense).
	d.Inject(t, "2 -100 0x2a 0 0 0x2 0x3 0xc 0x2")
	wantIO(t, fd, Extent{0, 8}, nil, unix.EIO)
	d.Inject(t, "2 -100 0x2a 0 0 0x2 0x3 0x11 0x0")
	wantIO(t, fd, Extent{0, 8}, nil, unix.ENODATA)
}

func TestFileSystems(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			disk := NewLoop(t, 320<<20, LoopOptions{})
			Mkfs(t, fstype, disk)
			dir := Mount(t, fstype, disk)
			file := filepath.Join(dir, "f")
			if err := os.WriteFile(file, []byte("contents"), 0o644); err != nil {
				t.Fatal(err)
			}
			Unmount(t, dir)
			Fsck(t, fstype, disk)
			dir = Mount(t, fstype, disk)
			if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil ||
				string(got) != "contents" {
				t.Errorf("after mounting again: %q, %v", got, err)
			}
		})
	}
}

// In a guest the kernel is the one that was asked for, and has ublk.
func TestGuestKernel(t *testing.T) {
	NeedUblk(t)
	if !InGuest() {
		t.Skip("the machine's own kernel may be any")
	}
	want := os.Getenv(GuestEnv)
	if UserMode() && want != umlName || !UserMode() && KernelVersion().String() != want {
		t.Errorf("kernel %s, asked for %s", KernelRelease(), want)
	}
}
