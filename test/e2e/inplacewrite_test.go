package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestPendingWrittenInPlace: with the spare region full, pending blocks take a write if it makes
// them well, as dm-dust's do. Where the write is taken and the blocks do not read, it fails.
func TestPendingWrittenInPlace(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	if testing.Short() {
		t.Skip("each write in place reads 512 other places, which takes long under emulation")
	}
	rig.Guard(t, 3*time.Minute)
	t.Run("heals", func(t *testing.T) {
		out, err := exec.Command("dmsetup", "targets").Output()
		if err != nil || !strings.Contains(string(out), "dust") {
			t.Skip("this kernel has no dm-dust (CONFIG_DM_DUST); Debian's have not")
		}
		const size = 32 << 20
		loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
		dm := vmtest.NewDM(t, fmt.Sprintf("0 %d dust %s 0 512\n", size/512, loop))
		spoil := func(e rig.Extent) {
			for at := e.Start; at < e.End(); at += 512 {
				rig.Run(t, "dmsetup", "message", dm.Name, "0", "addbadblock", fmt.Sprint(at/512))
			}
			rig.Run(t, "dmsetup", "message", dm.Name, "0", "enable")
		}
		testPendingInPlace(t, &rig.Disk{Path: dm.Path, Size: size, BlockSize: 512}, spoil, nil)
	})
	t.Run("stays bad", func(t *testing.T) {
		d := rig.NewDisk(t, rig.KindScsi, 32, 512)
		spoil := func(e rig.Extent) { d.SetBad(t, []rig.Extent{e}) }
		testPendingInPlace(t, d, spoil, syscall.EIO)
	})
}

func testPendingInPlace(t *testing.T, d *rig.Disk, spoil func(rig.Extent), want error) {
	const units = 16
	s := create(t, d, "--spare", fmt.Sprintf("%dKiB", units*4))
	lay := rig.LayoutOf(t, d.Path)
	s.Start(t)
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	// All spare units are in use.
	rig.Remap(t, "remap", "add", s.Dev, fmt.Sprintf("%d+%d", lay.Head/512+4096, units*8)).Want(t,
		rig.ExitDone)
	at := rig.At(lay.Head+1<<20, 8<<10)
	spoil(at)
	buf := rig.Aligned(8 << 10)
	if err := f.Read(buf, at.Start); err == nil {
		t.Fatal("bad blocks read")
	}
	if st := s.Status(t); st.Pending != 16 || st.Spare.Free != 0 {
		t.Fatalf("%+v", st)
	}
	rig.Pattern(buf, at.Start, 2)
	if err := f.Write(buf, at.Start); err != want {
		t.Fatalf("write: %v, want %v", err, want)
	}
	pending := int64(0)
	if want != nil {
		pending = 16
	}
	if st := s.Status(t); int64(st.Pending) != pending || st.Spare.Used != units {
		t.Errorf("after the write: %+v", st)
	}
	if want == nil {
		f.Survey(t, at.Start, at.End(), 512, 2, 0)
		f.Close()
		s.Restart(t)
		f = rig.Open(t, s.Dev)
		f.Survey(t, at.Start, at.End(), 512, 2, 0)
	}
}
