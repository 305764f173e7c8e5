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

	"ublkremap/test/vmtest"
)

// TestMovesUnderLoad moves blocks to the spare region and home again while fio
// writes to them and verifies.
func TestMovesUnderLoad(t *testing.T) {
	vmtest.NeedUblk(t)
	for i, bs := range []int64{512, 4096} {
		for _, zc := range somePaths(i) {
			t.Run(fmt.Sprintf("%s/%d", pathName(zc), bs),
				func(t *testing.T) { testMovesUnderLoad(t, zc, bs) })
		}
	}
}

func testMovesUnderLoad(t *testing.T, zeroCopy bool, bs int64) {
	guard(t, 4*time.Minute)
	rng := random(t)
	d := newDisk(t, kindLoop, 48, bs)
	s := create(t, d, "--spare", "4MiB")
	lay := layoutOf(t, d)
	s.start(t, "--queues", "2", dataPath(zeroCopy))
	// A few bad blocks, so that heals and moves meet.
	d.setBad(t, []extent{{lay.head + 3*bs, bs}, {lay.head + 1<<20, 16 * bs},
		{lay.headAt.start + 8*bs, bs}})
	job := []string{"rw=randwrite", "size=8M", "bssplit=4k/60:16k/20:64k/20", "iodepth=32",
		"verify=crc32c", fmt.Sprintf("randseed=%d", rng.Uint32())}
	fio(t, s.dev, job...) // nothing that cannot be read is left where blocks are moved
	p := startFio(t, s.dev, append(job, "verify_backlog=16", "time_based", "runtime=600")...)
	// Places within what fio uses, head and data.
	var places []string
	for range 5 {
		n := 1 + rng.Int64N(100)
		places = append(places, fmt.Sprintf("%d+%d", rng.Int64N((8<<20)/bs-n), n))
	}
	places = append(places, fmt.Sprint(lay.head/bs-1), fmt.Sprintf("%d+%d", lay.head/bs-3, 7))
	for range 3 {
		remap(t, append([]string{"remap", "add", s.dev}, places...)...).want(t, exitDone)
		rows := s.remaps(t)
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
		// What is bad at home cannot go home: the command may say so.
		r := remap(t, append([]string{"remap", "remove", s.dev}, places...)...)
		if r.code != exitDone && r.code != exitFailed {
			t.Errorf("remap remove\n%s", r)
		}
		time.Sleep(500 * time.Millisecond)
	}
	fioStopped(t, p)
	if st := s.status(t); st.Breaker.State != "closed" || st.Lost != 0 || st.Pending != 0 {
		t.Errorf("status: %+v", st)
	}
	fio(t, s.dev, job...)
	s.restart(t)
	fio(t, s.dev, append(job, "verify_only")...)
}

// TestMoveHome moves a remap of a good disk home; the spare unit is free again.
func TestMoveHome(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 2*time.Minute)
	const bs = 512
	d := newDisk(t, kindNull, 48, bs)
	s := create(t, d, "--spare", "256KiB")
	lay := layoutOf(t, d)
	s.start(t)
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	f.fill(t, 0, f.size, 1)
	at := lay.head/bs - 4 // over the end of the displaced head
	where := fmt.Sprintf("%d+21", at)
	remap(t, "remap", "add", s.dev, where).want(t, exitDone)
	rows := s.remaps(t)
	if !covered(rows, at, at+21) || rows[0].Block != at || rows[0].Cause == "" {
		t.Fatalf("remap list: %+v", rows)
	}
	if st := s.status(t); st.Remaps != 4 || st.Spare.Used != 4 {
		t.Errorf("remaps %d, spare %+v; 21 blocks in 4 units were moved", st.Remaps, st.Spare)
	}
	// The disk goes bad at home, which nobody uses any more.
	d.setBad(t, []extent{{lay.head, 4096}, {lay.headAt.end() - 4*bs, 4 * bs}})
	if bad := f.survey(t, 0, f.size, bs, 1, syscall.EIO); len(bad) != 0 {
		t.Errorf("unreadable although moved: %v", bad)
	}
	f.fill(t, (at-4)*bs, (at+30)*bs, 2)
	d.setBad(t, nil)
	remap(t, "remap", "remove", s.dev, where).want(t, exitDone)
	if rows := s.remaps(t); len(rows) != 0 {
		t.Errorf("remap list after remove: %+v", rows)
	}
	if st := s.status(t); st.Remaps != 0 || st.Spare.Used != 0 || st.Spare.Free != st.Spare.Total {
		t.Errorf("after remove: remaps %d, spare %+v", st.Remaps, st.Spare)
	}
	look := func() {
		t.Helper()
		f.survey(t, 0, (at-4)*bs, bs, 1, 0)
		f.survey(t, (at-4)*bs, (at+30)*bs, bs, 2, 0)
		f.survey(t, (at+30)*bs, f.size, bs, 1, 0)
	}
	look()
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	look()
}

// TestDiscard discards and zeroes over remaps and bad blocks.
func TestDiscard(t *testing.T) {
	vmtest.NeedUblk(t)
	for i, k := range []kind{kindLoop, kindNull} {
		for _, zc := range somePaths(i) {
			t.Run(fmt.Sprintf("%s/%s", k, pathName(zc)),
				func(t *testing.T) { testDiscard(t, k, zc) })
		}
	}
}

func testDiscard(t *testing.T, k kind, zeroCopy bool) {
	guard(t, 4*time.Minute)
	const bs = 512
	d := newDisk(t, k, 48, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := layoutOf(t, d)
	s.start(t, "--queues", "2", dataPath(zeroCopy))
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	f.fill(t, 0, f.size, 1)
	base := lay.head + 2<<20
	// Some of these are written, and so remapped; the others stay never written.
	written := []extent{{base + 4096, 512}, {base + 1<<20 - 1024, 2048}, {base + 3<<20, 65536},
		{lay.headAt.start + 8192, 1024}}
	left := []extent{{base + 4<<20 + 512, 512}, {base + 5<<20, 8192}}
	d.setBad(t, append(slices.Clone(written), left...))
	for _, e := range lay.exportedOf(merge(written)) {
		f.fill(t, e.start, e.end(), 1)
	}
	before := s.status(t)
	remaps := before.Remaps

	// Discard: what is read afterwards is the old data or zeroes, and no error
	// where there was none.
	discard := func(args ...string) {
		t.Helper()
		run(t, "blkdiscard", append(args, s.dev)...)
	}
	discard("-f", "-o", fmt.Sprint(base), "-l", fmt.Sprint(4<<20))
	discard("-f", "-o", "4096", "-l", "16384")
	// Over bad blocks the disk itself may refuse. Nothing comes of that.
	if r := launch(t, "blkdiscard", "-f", "-o", fmt.Sprint(base+4<<20), "-l", fmt.Sprint(2<<20),
		s.dev).wait(t, limit); r.code != 0 &&
		!strings.Contains(r.stderr, "Input/output error") {
		t.Errorf("discard over bad blocks\n%s", r)
	}
	buf := aligned(4096)
	for off := base; off < base+6<<20; off += 4096 {
		err := f.read(buf, off)
		if within(left, off, off+4096) {
			continue
		}
		if err != nil {
			t.Errorf("read at %d after discard: %v", off, err)
		}
		for i := 0; i < len(buf); i += 512 {
			old := aligned(512)
			pattern(old, off+int64(i), 1)
			if b := buf[i : i+512]; !bytes.Equal(b, old) && !bytes.Equal(b, make([]byte, 512)) {
				t.Fatalf("read at %d after discard: neither the old data nor zeroes", off+int64(i))
			}
		}
	}
	st := s.status(t)
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
		for _, r := range []extent{{base, 6 << 20}, {0, 64 << 10}} {
			for off := r.start; off < r.end(); off += 4096 {
				if err := f.read(buf, off); err != nil {
					t.Errorf("read at %d after write-zeroes: %v", off, err)
				} else if !bytes.Equal(buf, make([]byte, 4096)) {
					t.Fatalf("read at %d after write-zeroes: not zero", off)
				}
			}
		}
		f.survey(t, base+6<<20, f.size, bs, 1, 0)
		f.survey(t, 64<<10, base, bs, 1, 0)
	}
	zeroes()
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	zeroes()
	f.close()

	// A file system that trims.
	mkfs(t, "ext4", s.dev)
	dir := mount(t, "ext4", s)
	tree := plantTree(t, dir, rand.New(rand.NewPCG(1, 2)))
	run(t, "dd", "if=/dev/zero", "of="+dir+"/big", "bs=1M", "count=12", "conv=fsync", "status=none")
	if err := os.Remove(dir + "/big"); err != nil {
		t.Fatal(err)
	}
	syncFS(t, dir)
	trim(t, dir)
	tree.verify(t, dir)
	umount(t, dir)
	fsck(t, "ext4", s.dev)
}

func within(list []extent, from, to int64) bool {
	for _, e := range list {
		if cut(e, from, to).length > 0 {
			return true
		}
	}
	return false
}

// TestUnaligned reads and writes single blocks and odd lengths from buffers
// that do not begin at a page, over remaps with a mask.
func TestUnaligned(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, zc := range paths() {
		t.Run(pathName(zc), func(t *testing.T) { testUnaligned(t, zc) })
	}
}

func testUnaligned(t *testing.T, zeroCopy bool) {
	guard(t, 4*time.Minute)
	const bs = 512
	rng := random(t)
	d := newDisk(t, kindLoop, 32, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := layoutOf(t, d)
	s.start(t, "--queues", "2", dataPath(zeroCopy))
	// A small stretch with every kind of mask, half in the head.
	from, size := lay.head-64<<10, int64(128<<10)
	var bad []extent
	for range 40 {
		at := rng.Int64N(size/bs) * bs
		n := min(bs*(1+rng.Int64N(3)), size-at)
		if at < 64<<10 {
			n = min(n, 64<<10-at)
			bad = append(bad, extent{lay.headAt.end() - 64<<10 + at, n})
		} else {
			bad = append(bad, extent{from + at, n})
		}
	}
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	model := make([]byte, size)
	pattern(model, from, 5)
	f.fill(t, from, from+size, 5)
	d.setBad(t, bad)
	unreadable := map[int64]bool{} // by block of the stretch
	for _, e := range lay.exportedOf(d.bad) {
		for off := e.start; off < e.end(); off += bs {
			unreadable[(off-from)/bs] = true
		}
	}
	pool := aligned(256 << 10)
	for i := range 1500 {
		n := bs * (1 + rng.Int64N(40))
		if i%3 == 0 {
			n = bs * (1 + rng.Int64N(3))
		}
		at := rng.Int64N((size-n)/bs+1) * bs
		skip := bs * (1 + 2*rng.Int64N(8)) // odd multiples of 512
		buf := pool[skip : skip+n]
		if rng.IntN(2) == 0 {
			pattern(buf, from+at, uint64(i+10))
			if err := f.write(buf, from+at); err != nil {
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
		if err := f.read(buf, from+at); err != want {
			t.Fatalf("read %d bytes at %d: %v, want %v", n, from+at, err, want)
		}
		if want == nil && !bytes.Equal(buf, model[at:at+n]) {
			t.Fatalf("read %d bytes at %d: wrong data", n, from+at)
		}
	}
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	for at := int64(0); at < size; at += bs {
		err := f.read(pool[bs:2*bs], from+at)
		if unreadable[at/bs] != (err != nil) || err == nil && !bytes.Equal(pool[bs:2*bs],
			model[at:at+bs]) {
			t.Errorf("block at %d after a new start: %v, or wrong data", from+at, err)
		}
	}
}
