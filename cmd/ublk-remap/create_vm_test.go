package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/vmtest"
)

// TestCreateGoesAround: a disk whose first 68 KiB are bad, and places of whatever a set
// relies on besides, is prepared, says so, and works; the list names some of them.
func TestCreateGoesAround(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := seeded(t)
	const size = 96 << 20
	loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	var plan created
	parseJSON(t, want(t, 0, "create", loop, "--dry-run", "--json").out, &plan)
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
	parseJSON(t, want(t, 0, "create", dm.Path, "--name", "around", "--badblocks", list,
		"--badblocks-size", "512", "--json").out, &c)
	if c.FoundBad == 0 || c.BadBlocks != 1 || c.Moved == 0 || len(c.BadPlaces) == 0 {
		t.Errorf("%+v", c)
	}
	for _, p := range c.BadPlaces {
		if !strings.Contains(p, "superblock") {
			t.Errorf("went around by trying: %s", p)
		}
	}
	dev := startDevice(t, dm.Path)
	vmtest.Mkfs(t, "ext4", dev) // reads pages before it writes parts of them
	dir := vmtest.Mount(t, "ext4", dev)
	sums := plant(t, dir, rng)
	kill(t, dev)
	want(t, 0, "start", "around")
	verify(t, dir, sums)
	vmtest.Unmount(t, dir)
	want(t, 0, "stop", "around")
	want(t, 0, "metadata", "check", dm.Path)
}

// TestCreateWithoutSpares: where the spare region takes no write nothing is prepared, and
// nothing is changed, also of a disk that is full of data.
func TestCreateWithoutSpares(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := seeded(t)
	const size = 96 << 20
	for _, args := range [][]string{{}, {"--force", "--yes"}} {
		loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
		var plan created
		parseJSON(t, want(t, 0, "create", loop, "--dry-run", "--json").out, &plan)
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
		// With a few good units it would be taken, with a warning.
		dm := vmtest.NewDM(t, vmtest.ErrorTable(t, loop, vmtest.Extent{Start: spare,
			Count: plan.SpareBytes / 512}))
		r := want(t, 1, append([]string{"create", dm.Path}, args...)...)
		if !strings.Contains(r.err, "spare region") ||
			!strings.Contains(r.err, "nothing was changed") || strings.Contains(r.out, "prepared") {
			t.Errorf("%s%s", r.out, r.err)
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
