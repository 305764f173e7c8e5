package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestCreateGoesAround: the first 68 KiB of a disk are bad, and so are other places that a set
// relies on. The disk is prepared, with a message, and works. The list names some of the bad
// places.
func TestCreateGoesAround(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := rig.Random(t)
	const size = 96 << 20
	loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	var plan created
	parseJSON(t, rig.Want(t, 0, "create", loop, "--dry-run", "--json").Stdout, &plan)
	tail := plan.SizeBytes / 512 // where the displaced head begins
	bad := []vmtest.Extent{
		// superblocks, mirror A and its room
		{Start: 0, Count: 136}, {Start: 400, Count: 1}, {Start: 1000, Count: 8},
		{Start: tail + 77, Count: 3}, {Start: tail + 1024, Count: 8}, // displaced head
		{Start: (size - 96<<10) / 512, Count: 8}, // mirror B
	}
	dm := vmtest.NewDM(t, vmtest.ErrorTable(t, loop, bad...))
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("# sectors\r\n1000 8\r\n0x4e20\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c created
	parseJSON(t, rig.Want(t, 0, "create", dm.Path, "--name", "around", "--badblocks", list,
		"--badblocks-size", "512", "--json").Stdout, &c)
	if c.FoundBad == 0 || c.BadBlocks != 1 || c.Moved == 0 || len(c.BadPlaces) == 0 {
		t.Errorf("%+v", c)
	}
	for _, p := range c.BadPlaces {
		if !strings.Contains(p, "superblock") {
			t.Errorf("went around by trying: %s", p)
		}
	}
	dev := rig.StartDevice(t, dm.Path)
	vmtest.Mkfs(t, "ext4", dev) // reads pages before it writes parts of them
	dir := vmtest.Mount(t, "ext4", dev)
	tree := rig.PlantTree(t, dir, rng)
	rig.Kill(t, dev)
	rig.Want(t, 0, "start", "around")
	tree.Verify(t, dir)
	vmtest.Unmount(t, dir)
	rig.Want(t, 0, "stop", "around")
	rig.Want(t, 0, "metadata", "check", dm.Path)
}

// TestCreateWithoutSpares: if the spare region takes no writes, nothing is prepared and nothing is
// changed, also on a disk that is full of data.
func TestCreateWithoutSpares(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := rig.Random(t)
	const size = 96 << 20
	for _, args := range [][]string{{}, {"--force", "--yes"}} {
		loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
		var plan created
		parseJSON(t, rig.Want(t, 0, "create", loop, "--dry-run", "--json").Stdout, &plan)
		if len(args) > 0 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			f, err := os.OpenFile(loop, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			for at := int64(0); at < size; at += 1 << 20 {
				if _, err := f.WriteAt(b, at); err != nil {
					t.Fatal(err)
				}
			}
			f.Close()
		}
		before, err := os.ReadFile(loop)
		if err != nil {
			t.Fatal(err)
		}
		spare := (plan.SizeBytes + plan.HeadBytes) / 512
		// With a few good units the disk would be accepted, with a warning.
		dm := vmtest.NewDM(t, vmtest.ErrorTable(t, loop, vmtest.Extent{Start: spare,
			Count: plan.SpareBytes / 512}))
		r := rig.Want(t, 1, append([]string{"create", dm.Path}, args...)...)
		if !strings.Contains(r.Stderr, "spare region") ||
			!strings.Contains(r.Stderr, "nothing was changed") || strings.Contains(r.Stdout,
			"prepared") {
			t.Errorf("%s%s", r.Stdout, r.Stderr)
		}
		after, err := os.ReadFile(loop)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Error("refused, and the disk was changed")
		}
	}
}

// TestEndMarksStayAbove: marks at the end of a disk that are written through the device are visible
// on the device, and not on the disk below. Otherwise other tools would assemble the disk.
func TestEndMarksStayAbove(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	const size = 96 << 20
	disk := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", disk, "--name", "ends", "--spare-device", spare)
	dev := rig.StartDevice(t, disk)
	marks := endMarks(size)
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at, b := range marks {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	rig.Kill(t, dev)
	rig.Want(t, 0, "start", "ends")
	if found := endMarksOf(t, dev); len(found) != len(marks) {
		t.Errorf("the device shows %v", found)
	}
	rig.Want(t, 0, "stop", "ends")
	if found := endMarksOf(t, disk); len(found) > 0 {
		t.Errorf("found on the disk: %v", found)
	}
	rig.Want(t, 0, "metadata", "check", disk)
	// After release the disk has the marks.
	rig.Want(t, 0, "release", disk, "--yes")
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	for at, m := range marks {
		if !bytes.Equal(b[at:at+int64(len(m))], m) {
			t.Errorf("given back, the disk lacks %q at %d", m, at)
		}
	}
}
