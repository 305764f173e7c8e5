package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestFillBesideWriter: bad blocks are filled from an image while a user writes to them and to
// others, and the server is killed in the middle. What was written stays; everything else is as in
// the image.
func TestFillBesideWriter(t *testing.T) {
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := rig.Random(t)
	disk := rig.NewDisk(t, rig.KindLoop, 96, 512)
	set := rig.Create(t, disk.Path, "", "--spare", "4MiB")
	set.CheckAtEnd(t)
	layout := rig.LayoutOf(t, disk.Path)
	set.Start(t)
	d := rig.Open(t, set.Dev)
	defer d.Close()
	const from, to, old, newer = int64(40 << 20), int64(48 << 20), 1, 2
	d.Fill(t, from, to, old)
	image := filepath.Join(t.TempDir(), "image")
	rig.Run(t, "dd", "if="+set.Dev, "of="+image, "bs=1M", "iflag=direct", "conv=sparse")

	var bad []rig.Extent
	for range 300 {
		at := from + rng.Int64N((to-from)/512-8)*512
		bad = append(bad, rig.At(at, 512*(1+rng.Int64N(8))))
	}
	bad = rig.Merge(bad)
	var homes []rig.Extent
	sectors := []int64{} // that are bad
	for _, e := range bad {
		homes = append(homes, layout.HomesOnBacking(e)...)
		for at := e.Start; at < e.End(); at += 512 {
			sectors = append(sectors, at)
		}
	}
	disk.SetBad(t, homes)
	b := rig.Aligned(512)
	for _, at := range sectors {
		if d.Read(b, at) == nil {
			t.Fatalf("sector %d reads", at/512)
		}
	}

	// The writer writes each sector at most once: half of the bad ones, and good ones between.
	var order []int64
	for _, at := range sectors {
		if rng.IntN(2) == 0 {
			order = append(order, at)
		}
		if at := from + rng.Int64N((to-from)/512)*512; rng.IntN(2) == 0 {
			order = append(order, at)
		}
	}
	rng.Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
	written := map[int64]bool{}
	for _, at := range order {
		written[at] = true
	}
	var done atomic.Int64
	ended := make(chan error, 1)
	go func() {
		b := rig.Aligned(512)
		for _, at := range order {
			rig.Pattern(b, at, newer)
			if err := d.Write(b, at); err != nil {
				ended <- fmt.Errorf("write to sector %d: %w", at/512, err)
				return
			}
			done.Add(1)
		}
		ended <- nil
	}()
	for kill := range 3 {
		p := rig.Launch(t, vmtest.Binary(t), "fill", set.Name, "--from", image)
		at := int64(len(order)) * int64(kill+1) / 5
		rig.Until(t, "the writer to go on", func() bool { return done.Load() >= at || p.Ended() })
		set.Kill(t)
		p.Kill(t)
		set.Start(t)
	}
	rig.Want(t, exit.Done, "fill", set.Name, "--from", image)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	rig.Want(t, exit.Done, "fill", set.Name, "--from", image)
	if st := set.Status(t); st.Pending+st.Lost > 0 {
		t.Errorf("%d blocks are pending, %d lost", st.Pending, st.Lost)
	}
	for at := from; at < to; at += 512 {
		seed := uint64(old)
		if written[at] {
			seed = newer
		}
		if err := d.Read(b, at); err != nil {
			t.Fatalf("sector %d, written %v: %v", at/512, written[at], err)
		}
		if err := rig.CheckPattern(b, at, seed); err != nil {
			t.Fatalf("sector %d, written %v: %v", at/512, written[at], err)
		}
	}
}

// TestFillFromItself: an image that lies on the device is refused.
func TestFillFromItself(t *testing.T) {
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	d := newDamaged(t)
	image := filepath.Join(d.dir, "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, d.Status(t).SizeBlocks*512))
	loop := rig.Run(t, "losetup", "-f", "--show", image)
	loop = strings.TrimSpace(loop)
	t.Cleanup(func() { rig.Run(t, "losetup", "-d", loop) })
	for _, from := range []string{image, loop} {
		r := rig.Want(t, exit.Refused, "fill", d.Name, "--from", from)
		if !strings.Contains(r.Stderr, "it lies on "+d.Dev+" itself") ||
			strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %s", from, r.Stderr)
		}
	}
	if st := d.Status(t); st.Pending != 4 {
		t.Errorf("%d blocks are pending", st.Pending)
	}
}

// TestRescued: of all statuses of ddrescue, only what is finished counts.
func TestRescued(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "map")
	must(t, os.WriteFile(path, []byte("# Mapfile. Created by GNU ddrescue version 1.27\n"+
		"# current_pos  current_status  current_pass\n0x00000000     ?               1\n"+
		"#      pos        size  status\n0x0 0x1000 +\n0x1000 0x1000 *\n0x2000 0x1000 /\n"+
		"0x3000 0x1000 -\n0x4000 0x1000 ?\n0x5000 0x200 +\n"), 0o600))
	have, end, err := rescued(path)
	if err != nil || end != 0x5200 || fmt.Sprint(have) != "[{0 4096} {20480 20992}]" {
		t.Errorf("%v up to %d, %v", have, end, err)
	}
}
