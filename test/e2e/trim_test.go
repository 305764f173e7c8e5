package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// stack is a kind of disk that can give space back. make returns its path, and what it
// takes at the moment, in bytes.
type stack struct {
	name string
	make func(t testing.TB, size int64) (path string, used func() int64)
}

var stacks = []stack{
	{"loop", func(t testing.TB, size int64) (string, func() int64) { return sparse(t, size) }},
	{"linear", func(t testing.TB, size int64) (string, func() int64) {
		loop, used := sparse(t, size)
		return vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n", size/512, loop)).Path, used
	}},
	// Drivers that take bios themselves and may wait.
	{"thin", func(t testing.TB, size int64) (string, func() int64) {
		vmtest.Modprobe(t, "dm_thin_pool")
		data, used := sparse(t, size)
		meta, _ := sparse(t, 4<<20)
		pool := vmtest.NewDM(t, fmt.Sprintf("0 %d thin-pool %s %s 128 0\n", size/512, meta, data))
		pool.Message(t, 0, "create_thin", "0")
		return vmtest.NewDM(t, fmt.Sprintf("0 %d thin %s 0\n", size/512, pool.Path)).Path, used
	}},
	{"mirror", func(t testing.TB, size int64) (string, func() int64) {
		one, used := sparse(t, size)
		two, _ := sparse(t, size)
		return vmtest.NewMirroredArray(t, size, one, two), used
	}},
	{"zram", func(t testing.TB, size int64) (string, func() int64) {
		if vmtest.UserMode() {
			t.Skip("this kernel is built without zram")
		}
		vmtest.Modprobe(t, "zram")
		const dir = "/sys/block/zram0/"
		write := func(attr string, value int64) {
			if err := os.WriteFile(dir+attr, fmt.Append(nil, value), 0o200); err != nil {
				t.Error(err)
			}
		}
		write("disksize", size)
		t.Cleanup(func() { write("reset", 1) })
		return "/dev/zram0", func() int64 {
			var original int64
			text, err := os.ReadFile(dir + "mm_stat")
			if err == nil {
				_, err = fmt.Sscan(string(text), &original)
			}
			if err != nil {
				t.Fatal(err)
			}
			return original
		}
	}},
	{"file", func(t testing.TB, size int64) (string, func() int64) {
		path := filepath.Join(t.TempDir(), "disk.img")
		return path, sparseFile(t, path, size)
	}},
}

// sparse is a loop device over a file with holes.
func sparse(t testing.TB, size int64) (string, func() int64) {
	path := filepath.Join(t.TempDir(), "disk.img")
	used := sparseFile(t, path, size)
	return vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: path, Buffered: true}), used
}

// sparseFile makes a file that is a hole.
func sparseFile(t testing.TB, path string, size int64) func() int64 {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return func() int64 {
		var st unix.Stat_t
		unix.Sync()
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
}

// TestDiscardGivesSpaceBack: what is discarded, by blkdiscard and by a file system, is free on
// every kind of disk that says that it can discard; zeroes are written; and the kernel logs no
// failed request.
func TestDiscardGivesSpaceBack(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedRoot(t)
	for _, k := range stacks {
		t.Run(k.name, func(t *testing.T) {
			vmtest.OnOneKernel(t)
			testGivesSpaceBack(t, k)
		})
	}
}

func testGivesSpaceBack(t *testing.T, k stack) {
	rig.Guard(t, 3*time.Minute)
	const size, filled = 96 << 20, 40 << 20
	path, used := k.make(t, size)
	s := create(t, &rig.Disk{Kind: rig.KindLoop, Path: path, Size: size, BlockSize: 512}, "--spare",
		"2MiB")
	s.Start(t)
	complained := complaints(t, s.Dev)
	f := rig.Open(t, s.Dev)
	f.Fill(t, 0, filled, 1)
	f.Close()
	full := used()
	rig.Run(t, "blkdiscard", "-f", s.Dev)
	freed(t, "blkdiscard", used, full-filled/2)
	f = rig.Open(t, s.Dev)
	f.Fill(t, 0, filled, 2)
	f.Close()
	rig.Run(t, "blkdiscard", "-f", "-z", "-o", "4096", "-l", fmt.Sprint(8<<20), s.Dev)
	f = rig.Open(t, s.Dev)
	buf := rig.Aligned(8 << 20)
	if err := f.Read(buf, 4096); err != nil || strings.Trim(string(buf), "\x00") != "" {
		t.Errorf("what was zeroed is not zero: %v", err)
	}
	f.Close()

	rig.Mkfs(t, "ext4", s.Dev)
	dir := s.Mount(t, "ext4")
	if err := os.WriteFile(dir+"/f", noZeroes(filled), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	full = used()
	if err := os.Remove(dir + "/f"); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	rig.Trim(t, dir)
	freed(t, "fstrim", used, full-filled/2)
	rig.Unmount(t, dir)
	rig.Fsck(t, "ext4", s.Dev)
	if lines := complained(); lines != "" {
		t.Errorf("the kernel complains: %s", lines)
	}
	if st := s.Status(t); st.Errors.Transport != 0 || st.IO.Discards == 0 {
		t.Errorf("%+v, %+v", st.Errors, st.IO)
	}
}

// noZeroes is data that no layer finds to be zeroes, or the same word over and over, which
// zram keeps nothing of.
func noZeroes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b) // it never fails
	return b
}

// freed waits until no more than so much is used: a driver may take its time to give it back.
func freed(t testing.TB, what string, used func() int64, most int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		n := used()
		if n <= most {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %d bytes are used, want %d at most", what, n, most)
			return
		}
	}
}

// complaints returns a function that tells the errors of dev that the kernel has logged since. It
// reads new messages only: older ones vanish from the kernel's log as it fills.
func complaints(t testing.TB, dev string) func() string {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	return func() string {
		var b strings.Builder
		record := make([]byte, 8<<10) // the longest that the kernel has
		for {
			n, err := unix.Read(fd, record)
			switch {
			case err == unix.EPIPE: // records were dropped before they were read
				t.Error("the kernel logged more than its log holds")
			case err == unix.EAGAIN:
				return b.String()
			case err != nil:
				t.Fatal(err)
			case strings.Contains(string(record[:n]), "error, dev "+filepath.Base(dev)+","):
				b.Write(record[:n])
			}
		}
	}
}
