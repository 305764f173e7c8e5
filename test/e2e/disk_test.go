package e2e

import (
	"fmt"
	"syscall"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestFaultDisks makes sure that the disks fail the way the other tests rely on.
func TestFaultDisks(t *testing.T) {
	vmtest.NeedRoot(t)
	for _, k := range []rig.Kind{rig.KindLoop, rig.KindNull, rig.KindScsi} {
		for _, bs := range []int64{512, 4096} {
			t.Run(fmt.Sprintf("%s/%d", k, bs), func(t *testing.T) {
				testFaultDisk(t, k, bs)
			})
		}
	}
}

func testFaultDisk(t *testing.T, k rig.Kind, bs int64) {
	d := rig.NewDisk(t, k, 16, bs)
	f := rig.Open(t, d.Path)
	f.Fill(t, 0, d.Size, 1)
	// One block, and three behind a 1 MiB boundary's last.
	d.SetBad(t, []rig.Extent{rig.At(5*bs, bs), rig.At(1<<20-bs, 3*bs)})

	buf := rig.Aligned(64 << 10)
	read := func(off, n int64) error { return f.Read(buf[:n], off) }
	for _, c := range []struct {
		off, n int64
		bad    bool
	}{
		{5 * bs, bs, true}, {4 * bs, bs, false}, {6 * bs, bs, false}, {0, 16 * bs, true},
		{1<<20 - bs, bs, true}, {1 << 20, bs, true}, {1<<20 + bs, bs, true},
		{1<<20 - 2*bs, bs, false}, {1<<20 + 2*bs, bs, false},
		{2 << 20, 64 << 10, false},
	} {
		err := read(c.off, c.n)
		switch {
		case c.bad && err != d.ReadErrno():
			t.Errorf("read of %d bytes at %d: %v, want %v", c.n, c.off, err, d.ReadErrno())
		case !c.bad && err != nil:
			t.Errorf("read of %d bytes at %d: %v", c.n, c.off, err)
		case !c.bad:
			rig.WantPattern(t, buf[:c.n], c.off, 1)
		}
	}
	rig.Pattern(buf[:bs], 5*bs, 2)
	err := f.Write(buf[:bs], 5*bs)
	if k == rig.KindScsi {
		if err != nil {
			t.Errorf("write of a bad block: %v, want success", err)
		}
	} else if err != syscall.EIO {
		t.Errorf("write of a bad block: %v, want EIO", err)
	}
	if err := read(5*bs, bs); err != d.ReadErrno() {
		t.Errorf("read after the write: %v, want %v: writes are not to heal", err, d.ReadErrno())
	}
	if d.DM == nil {
		return
	}
	d.Vanish(t)
	if err := read(2<<20, bs); err != syscall.EIO {
		t.Errorf("read of a disk that has vanished: %v, want EIO", err)
	}
	if err := f.Write(buf[:bs], 2<<20); err != syscall.EIO {
		t.Errorf("write to a disk that has vanished: %v, want EIO", err)
	}
	d.Back(t)
	if err := read(2<<20, bs); err != nil {
		t.Errorf("read of a disk that has come back: %v", err)
	}
	rig.WantPattern(t, buf[:bs], 2<<20, 1)
}
