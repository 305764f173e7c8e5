package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestExport shows a device on a machine without ublk-remap: the table that export prints gives a
// read-only device with the same contents, and the same blocks that cannot be read.
func TestExport(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	t.Run("512", func(t *testing.T) { testExport(t, 512, true) })
	t.Run("4096, with a spare device", func(t *testing.T) { testExport(t, 4096, false) })
}

func testExport(t *testing.T, bs int64, alone bool) {
	rig.Guard(t, 4*time.Minute)
	d := rig.NewDisk(t, rig.KindLoop, 12, bs)
	s := exportedSet(t, d, alone)
	lay := rig.LayoutOf(t, d.Path)
	s.Start(t)
	f := rig.Open(t, s.Dev)
	f.Fill(t, 0, f.Size, 1)
	at := func(i int64) int64 { return lay.Head + i*(64<<10) + (i%3)*bs }
	var bad []rig.Extent
	for i := range int64(40) {
		bad = append(bad, rig.At(at(i), bs*(1+i%2)))
	}
	d.SetBad(t, bad)
	var dead int64 // bytes
	buf := rig.Aligned(int(2 * bs))
	for i := range int64(40) {
		size := bad[i].Length
		if i < 30 {
			f.Fill(t, at(i), at(i)+size, 2) // remapped
			continue
		}
		if err := f.Read(buf[:size], at(i)); err != syscall.EIO { // pending
			t.Errorf("block at %d: %v", at(i), err)
		}
		dead += size
	}
	f.Close()
	live := rig.Want(t, 0, "export", s.Dev, "--format", "dmsetup").Stdout
	numbers := rig.Want(t, 0, "export", s.Name, "--format", "badblocks", "--block-size",
		fmt.Sprint(bs)).Stdout
	if n := int64(strings.Count(numbers, "\n")); n*bs != dead {
		t.Errorf("%d blocks of %d bytes, want %d bytes\n%s", n, bs, dead, numbers)
	}
	was := contents(t, s.Dev, bs)
	s.Stop(t)
	table := rig.Want(t, 0, "export", d.Path, "--format", "dmsetup").Stdout
	if table != live {
		t.Errorf("live:\n%sstopped:\n%s", live, table)
	}
	dm := vmtest.NewReadOnlyDM(t, table)
	now := contents(t, dm.Path, bs)
	if len(was.bad) != int(dead/bs) || !bytes.Equal(was.data, now.data) ||
		fmt.Sprint(was.bad) != fmt.Sprint(now.bad) {
		t.Errorf("the device was of %d bytes with bad blocks %v, the table makes %d, %v",
			len(was.data), was.bad, len(now.data), now.bad)
	}
	fd, err := unix.Open(dm.Path, unix.O_WRONLY|unix.O_DIRECT, 0)
	if err == nil {
		_, err = unix.Pwrite(fd, rig.Aligned(int(bs)), 0)
		unix.Close(fd)
	}
	if err == nil {
		t.Error("the table's device can be written")
	}
}

// exportedSet makes a set, alone or with a spare device.
func exportedSet(t *testing.T, d *rig.Disk, alone bool) *rig.Set {
	if alone {
		return create(t, d, "--spare", "1MiB")
	}
	spare := vmtest.NewLoop(t, 8<<20, vmtest.LoopOptions{BlockSize: uint32(d.BlockSize)})
	s := rig.Create(t, d.Path, spare)
	s.CheckAtEnd(t)
	return s
}

// held is what a device holds, and the numbers of the blocks that cannot be read.
type held struct {
	data []byte
	bad  []int64
}

// contents reads a device, block by block where something fails.
func contents(t *testing.T, path string, bs int64) (h held) {
	t.Helper()
	f := rig.OpenToRead(t, path)
	defer f.Close()
	buf := rig.Aligned(64 << 10)
	for at := int64(0); at < f.Size; at += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), f.Size-at)]
		if f.Read(part, at) == nil {
			h.data = append(h.data, part...)
			continue
		}
		for i := int64(0); i < int64(len(part)); i += bs {
			block := part[i : i+bs]
			if f.Read(block, at+i) != nil {
				clear(block)
				h.bad = append(h.bad, (at+i)/bs)
			}
			h.data = append(h.data, block...)
		}
	}
	return h
}
