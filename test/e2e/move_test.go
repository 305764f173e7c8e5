package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestMovesUnderLoad moves blocks to the spare region and home again while fio
// writes to them and verifies.
func TestMovesUnderLoad(t *testing.T) {
	vmtest.OnNewerKernel(t)
	vmtest.NeedUblk(t)
	for i, bs := range []int64{512, 4096} {
		for _, zc := range somePaths(i) {
			t.Run(fmt.Sprintf("%s/%d", pathName(zc), bs),
				func(t *testing.T) { testMovesUnderLoad(t, zc, bs) })
		}
	}
}

func testMovesUnderLoad(t *testing.T, zeroCopy bool, bs int64) {
	rig.Guard(t, 4*time.Minute)
	rng := rig.Random(t)
	d, s, lay := rig.Serve(t, rig.KindLoop, 48, bs, "4MiB", "--queues", "2", dataPath(zeroCopy))
	// A few bad blocks, so that heals and moves meet.
	d.SetBad(t, []rig.Extent{rig.At(lay.Head+3*bs, bs), rig.At(lay.Head+1<<20, 16*bs),
		rig.At(lay.HeadAt().Start+8*bs, bs)})
	job := []string{"rw=randwrite", "size=8M", "bssplit=4k/60:16k/20:64k/20", "iodepth=32",
		"verify=crc32c", fmt.Sprintf("randseed=%d", rng.Uint32())}
	rig.RunFio(t, s.Dev, job...) // nothing that cannot be read is left where blocks are moved
	p := rig.StartFio(t, s.Dev, append(job, "verify_backlog=16", "time_based", "runtime=600")...)
	// Places within what fio uses, head and data.
	var places []string
	for range 5 {
		n := 1 + rng.Int64N(100)
		places = append(places, fmt.Sprintf("%d+%d", rng.Int64N((8<<20)/bs-n), n))
	}
	places = append(places, fmt.Sprint(lay.Head/bs-1), fmt.Sprintf("%d+%d", lay.Head/bs-3, 7))
	for range 3 {
		rig.Remap(t, append([]string{"remap", "add", s.Dev}, places...)...).Want(t, rig.ExitDone)
		rows := s.Remaps(t)
		for _, at := range places {
			var from, n int64
			if _, err := fmt.Sscanf(at+"+1", "%d+%d", &from, &n); err != nil {
				t.Fatal(err)
			}
			if !covered(rows, from, from+n) {
				t.Errorf("remap add %s left blocks at home: %+v", at, rows)
			}
		}
		time.Sleep(time.Second)
		// A block whose home is bad cannot be moved home. The command may report that.
		r := rig.Remap(t, append([]string{"remap", "remove", s.Dev}, places...)...)
		if r.Code != rig.ExitDone && r.Code != rig.ExitFailed {
			t.Errorf("remap remove\n%s", r)
		}
		time.Sleep(500 * time.Millisecond)
	}
	p.Stop(t)
	if st := s.Status(t); st.Breaker.State != "closed" || st.Lost != 0 || st.Pending != 0 {
		t.Errorf("status: %+v", st)
	}
	rig.RunFio(t, s.Dev, job...)
	s.Restart(t)
	rig.RunFio(t, s.Dev, append(job, "verify_only")...)
}

// TestMoveHome moves a remap of a good disk home; the spare unit is free again.
func TestMoveHome(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 2*time.Minute)
	const bs = 512
	d, s, lay := rig.Serve(t, rig.KindNull, 48, bs, "256KiB")
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	at := lay.Head/bs - 4 // over the end of the displaced head
	where := fmt.Sprintf("%d+21", at)
	rig.Remap(t, "remap", "add", s.Dev, where).Want(t, rig.ExitDone)
	rows := s.Remaps(t)
	if !covered(rows, at, at+21) || rows[0].Block != at || rows[0].Cause == "" {
		t.Fatalf("remap list: %+v", rows)
	}
	if st := s.Status(t); st.Remaps != 4 || st.Spare.Used != 4 {
		t.Errorf("remaps %d, spare %+v; 21 blocks in 4 units were moved", st.Remaps, st.Spare)
	}
	// The disk goes bad at home, which nobody uses any more.
	d.SetBad(t, []rig.Extent{rig.At(lay.Head, 4096), rig.At(lay.HeadAt().End()-4*bs, 4*bs)})
	if bad := f.Survey(t, 0, f.Size, bs, 1, syscall.EIO); len(bad) != 0 {
		t.Errorf("unreadable although moved: %v", bad)
	}
	f.Fill(t, (at-4)*bs, (at+30)*bs, 2)
	d.SetBad(t, nil)
	rig.Remap(t, "remap", "remove", s.Dev, where).Want(t, rig.ExitDone)
	if rows := s.Remaps(t); len(rows) != 0 {
		t.Errorf("remap list after remove: %+v", rows)
	}
	if st := s.Status(t); st.Remaps != 0 || st.Spare.Used != 0 || st.Spare.Free != st.Spare.Total {
		t.Errorf("after remove: remaps %d, spare %+v", st.Remaps, st.Spare)
	}
	look := func() {
		t.Helper()
		f.Survey(t, 0, (at-4)*bs, bs, 1, 0)
		f.Survey(t, (at-4)*bs, (at+30)*bs, bs, 2, 0)
		f.Survey(t, (at+30)*bs, f.Size, bs, 1, 0)
	}
	look()
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	look()
}

// TestDiscard discards and zeroes over remaps and bad blocks.
func TestDiscard(t *testing.T) {
	vmtest.OnNewerKernel(t)
	vmtest.NeedUblk(t)
	for i, k := range []rig.Kind{rig.KindLoop, rig.KindNull} {
		for _, zc := range somePaths(i) {
			t.Run(fmt.Sprintf("%s/%s", k, pathName(zc)),
				func(t *testing.T) { testDiscard(t, k, zc) })
		}
	}
}

func testDiscard(t *testing.T, k rig.Kind, zeroCopy bool) {
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	d, s, lay := rig.Serve(t, k, 48, bs, "2MiB", "--queues", "2", dataPath(zeroCopy))
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	base := lay.Head + 2<<20
	// Some of these are written, and so remapped; the others stay never written.
	written := []rig.Extent{rig.At(base+4096, 512), rig.At(base+1<<20-1024, 2048),
		rig.At(base+3<<20, 65536),
		rig.At(lay.HeadAt().Start+8192, 1024)}
	left := []rig.Extent{rig.At(base+4<<20+512, 512), rig.At(base+5<<20, 8192)}
	d.SetBad(t, append(slices.Clone(written), left...))
	for _, e := range lay.ExportedOf(rig.Merge(written)) {
		f.Fill(t, e.Start, e.End(), 1)
	}
	before := s.Status(t)
	remaps := before.Remaps

	// Discard: what is read afterwards is the old data or zeroes, and no error
	// where there was none.
	discard := func(args ...string) {
		t.Helper()
		rig.Run(t, "blkdiscard", append(args, s.Dev)...)
	}
	discard("-f", "-o", fmt.Sprint(base), "-l", fmt.Sprint(4<<20))
	discard("-f", "-o", "4096", "-l", "16384")
	// Over bad blocks the disk itself may refuse. That has no consequence.
	if r := rig.Launch(t, "blkdiscard", "-f", "-o", fmt.Sprint(base+4<<20), "-l", fmt.Sprint(2<<20),
		s.Dev).Wait(t, rig.Limit); r.Code != 0 &&
		!strings.Contains(r.Stderr, "Input/output error") {
		t.Errorf("discard over bad blocks\n%s", r)
	}
	buf := rig.Aligned(4096)
	for off := base; off < base+6<<20; off += 4096 {
		err := f.Read(buf, off)
		if within(left, off, off+4096) {
			continue
		}
		if err != nil {
			t.Errorf("read at %d after discard: %v", off, err)
		}
		for i := 0; i < len(buf); i += 512 {
			old := rig.Aligned(512)
			rig.Pattern(old, off+int64(i), 1)
			if b := buf[i : i+512]; !bytes.Equal(b, old) && !bytes.Equal(b, make([]byte, 512)) {
				t.Fatalf("read at %d after discard: neither the old data nor zeroes", off+int64(i))
			}
		}
	}
	st := s.Status(t)
	if st.IO.Discards == 0 {
		t.Errorf("no discard reached the server: %+v", st.IO)
	}
	if st.Remaps > remaps {
		t.Errorf("discard made remaps: %d, were %d", st.Remaps, remaps)
	}
	// Write-zeroes heals like a write: every byte is zero, bad or not.
	discard("-f", "-z", "-o", fmt.Sprint(base), "-l", fmt.Sprint(6<<20))
	discard("-f", "-z", "-o", "0", "-l", fmt.Sprint(64<<10))
	zeroes := func() {
		t.Helper()
		for _, r := range []rig.Extent{rig.At(base, 6<<20), rig.At(0, 64<<10)} {
			for off := r.Start; off < r.End(); off += 4096 {
				if err := f.Read(buf, off); err != nil {
					t.Errorf("read at %d after write-zeroes: %v", off, err)
				} else if !bytes.Equal(buf, make([]byte, 4096)) {
					t.Fatalf("read at %d after write-zeroes: not zero", off)
				}
			}
		}
		f.Survey(t, base+6<<20, f.Size, bs, 1, 0)
		f.Survey(t, 64<<10, base, bs, 1, 0)
	}
	zeroes()
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	zeroes()
	f.Close()

	// A file system that trims.
	rig.Mkfs(t, "ext4", s.Dev)
	dir := s.Mount(t, "ext4")
	tree := rig.PlantTree(t, dir, rand.New(rand.NewPCG(1, 2)))
	rig.Run(t, "dd", "if=/dev/zero", "of="+dir+"/big", "bs=1M", "count=12", "conv=fsync",
		"status=none")
	if err := os.Remove(dir + "/big"); err != nil {
		t.Fatal(err)
	}
	rig.SyncFS(t, dir)
	rig.Trim(t, dir)
	tree.Verify(t, dir)
	rig.Unmount(t, dir)
	rig.Fsck(t, "ext4", s.Dev)
}

func within(list []rig.Extent, from, to int64) bool {
	for _, e := range list {
		if e.Cut(from, to).Length > 0 {
			return true
		}
	}
	return false
}

// TestUnaligned reads and writes single blocks and odd lengths from buffers
// that do not begin at a page, over remaps with a mask.
func TestUnaligned(t *testing.T) {
	vmtest.OnNewerKernel(t)
	vmtest.NeedUblk(t)
	for _, zc := range paths() {
		t.Run(pathName(zc), func(t *testing.T) { testUnaligned(t, zc) })
	}
}

func testUnaligned(t *testing.T, zeroCopy bool) {
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	rng := rig.Random(t)
	d, s, lay := rig.Serve(t, rig.KindLoop, 32, bs, "2MiB", "--queues", "2", dataPath(zeroCopy))
	// A small stretch with every kind of mask, half in the head.
	from, size := lay.Head-64<<10, int64(128<<10)
	var bad []rig.Extent
	for range 40 {
		at := rng.Int64N(size/bs) * bs
		n := min(bs*(1+rng.Int64N(3)), size-at)
		if at < 64<<10 {
			n = min(n, 64<<10-at)
			bad = append(bad, rig.At(lay.HeadAt().End()-64<<10+at, n))
		} else {
			bad = append(bad, rig.At(from+at, n))
		}
	}
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	model := make([]byte, size)
	rig.Pattern(model, from, 5)
	f.Fill(t, from, from+size, 5)
	d.SetBad(t, bad)
	unreadable := map[int64]bool{} // by block of the stretch
	for _, e := range lay.ExportedOf(d.Bad) {
		for off := e.Start; off < e.End(); off += bs {
			unreadable[(off-from)/bs] = true
		}
	}
	pool := rig.Aligned(256 << 10)
	for i := range 1500 {
		n := bs * (1 + rng.Int64N(40))
		if i%3 == 0 {
			n = bs * (1 + rng.Int64N(3))
		}
		at := rng.Int64N((size-n)/bs+1) * bs
		skip := bs * (1 + 2*rng.Int64N(8)) // odd multiples of 512
		buf := pool[skip : skip+n]
		if rng.IntN(2) == 0 {
			rig.Pattern(buf, from+at, uint64(i+10))
			if err := f.Write(buf, from+at); err != nil {
				t.Fatalf("write %d bytes at %d: %v", n, from+at, err)
			}
			copy(model[at:], buf)
			for b := at / bs; b < (at+n)/bs; b++ {
				delete(unreadable, b)
			}
			continue
		}
		want := error(nil)
		for b := at / bs; b < (at+n)/bs; b++ {
			if unreadable[b] {
				want = syscall.EIO
			}
		}
		if err := f.Read(buf, from+at); err != want {
			t.Fatalf("read %d bytes at %d: %v, want %v", n, from+at, err, want)
		}
		if want == nil && !bytes.Equal(buf, model[at:at+n]) {
			t.Fatalf("read %d bytes at %d: wrong data", n, from+at)
		}
	}
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	for at := int64(0); at < size; at += bs {
		err := f.Read(pool[bs:2*bs], from+at)
		if unreadable[at/bs] != (err != nil) || err == nil && !bytes.Equal(pool[bs:2*bs],
			model[at:at+bs]) {
			t.Errorf("block at %d after a new start: %v, or wrong data", from+at, err)
		}
	}
}
