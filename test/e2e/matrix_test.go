package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// cell is one combination of the matrix.
type cell struct {
	kind      rig.Kind
	blockSize int64
	queues    int
	way
	fs string
}

func (c cell) String() string {
	return fmt.Sprintf("%s/%d/%dq/%s/%s", c.kind, c.blockSize, c.queues, c.way, c.fs)
}

// cross is every combination that the kernel has.
func cross() []cell {
	var all []cell
	for _, k := range []rig.Kind{rig.KindLoop, rig.KindNull, rig.KindScsi} {
		for _, bs := range []int64{512, 4096} {
			for _, q := range []int{1, 4} {
				for _, w := range allWays() {
					for _, fs := range []string{"ext4", "xfs"} {
						all = append(all, cell{k, bs, q, w, fs})
					}
				}
			}
		}
	}
	return all
}

// values are those of a cell, each with its name before it.
func (c cell) values() []string {
	return []string{
		"kind=" + string(c.kind), fmt.Sprintf("block=%d", c.blockSize),
		fmt.Sprintf("queues=%d", c.queues), fmt.Sprintf("zerocopy=%t", c.zeroCopy),
		fmt.Sprintf("batch=%t", c.batch), fmt.Sprintf("tuned=%t", c.tuned), "fs=" + c.fs,
	}
}

// pairs are all pairs of values that a cell has, but for those that have nothing to
// do with each other, which makes the choice smaller.
func (c cell) pairs() []string {
	v := c.values()
	unrelated := map[string]bool{"block batch": true, "block tuned": true, "tuned fs": true}
	name := func(value string) string { return value[:strings.IndexByte(value, '=')] }
	var out []string
	for i, a := range v {
		for _, b := range v[i+1:] {
			if !unrelated[name(a)+" "+name(b)] {
				out = append(out, a+","+b)
			}
		}
	}
	return out
}

// choose picks cells so that everything that parts says of any cell is in one of them:
// always the cell that has most of what is still missing.
func choose(all []cell, parts func(cell) []string) []cell {
	missing := map[string]bool{}
	for _, c := range all {
		for _, p := range parts(c) {
			missing[p] = true
		}
	}
	var chosen []cell
	for len(missing) > 0 {
		best, most := cell{}, 0
		for _, c := range all {
			n := 0
			for _, p := range parts(c) {
				if missing[p] {
					n++
				}
			}
			if n > most {
				best, most = c, n
			}
		}
		for _, p := range parts(best) {
			delete(missing, p)
		}
		chosen = append(chosen, best)
	}
	return chosen
}

func TestChoose(t *testing.T) {
	all := cross()
	for name, parts := range map[string]func(cell) []string{"pairs": cell.pairs,
		"values": cell.values} {
		chosen := choose(all, parts)
		have := map[string]bool{}
		for _, c := range chosen {
			for _, p := range parts(c) {
				have[p] = true
			}
		}
		for _, c := range all {
			for _, p := range parts(c) {
				if !have[p] {
					t.Errorf("%s: no chosen cell has %s", name, p)
				}
			}
		}
		if len(chosen) > len(all)/3 {
			t.Errorf("%s: %d of %d cells were chosen", name, len(chosen), len(all))
		}
		t.Logf("%s: %v", name, chosen)
	}
}

// Sizes of the matrix' disks.
const (
	diskMiB  = 64
	spareMiB = 4
)

// TestMatrix is the main job: a disk goes bad under a device, fio and a file
// system write and read all of it, and nothing is lost.
func TestMatrix(t *testing.T) {
	vmtest.NeedUblk(t)
	cells := cross()
	switch {
	case vmtest.OnOlderKernel():
		cells = choose(cells, cell.values)
	case !vmtest.Full():
		cells = choose(cells, cell.pairs)
	}
	for _, c := range cells {
		t.Run(c.String(), func(t *testing.T) {
			rig.Guard(t, 6*time.Minute)
			testCell(t, c)
		})
	}
}

func testCell(t *testing.T, c cell) {
	rng := rig.Random(t)
	d := rig.NewDisk(t, c.kind, diskMiB, c.blockSize)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	lay := rig.LayoutOf(t, d.Path)
	c.way.start(t, s, "--queues", fmt.Sprint(c.queues))
	if st := s.Status(t); st.Features.ZeroCopy != c.zeroCopy || st.Features.BatchIO != c.batch ||
		st.BlockSize != c.blockSize || st.SizeBlocks != lay.Exported/c.blockSize {
		t.Errorf("status: %+v, want blocks of %d, %d of them, %v", st, c.blockSize,
			lay.Exported/c.blockSize, c.way)
	}

	// Data from before the disk went bad may fail to read, but must never read as something else.
	const seed = 7
	whole := rig.Open(t, s.Dev)
	whole.Fill(t, 0, whole.Size, seed)
	whole.Close()
	s.Restart(t)
	d.SetBad(t, badPlaces(rng, c, lay))
	t.Logf("bad: %v", d.Bad)
	want := lay.ExportedOf(d.Bad)

	// Bad blocks are met by reads in the first part of the device and by writes in the second. If
	// writes do not fail, only reads find bad blocks, so all of them must be read.
	known := whole.Size / 2 &^ (4096 - 1)
	if c.kind == rig.KindScsi {
		known = whole.Size
	}
	read := clip(want, 0, known)
	whole = rig.Open(t, s.Dev)
	got := whole.Survey(t, 0, known, c.blockSize, seed, d.ReadErrno())
	if !slices.Equal(got, read) {
		t.Errorf("unreadable: %v\nwant %v", got, read)
	}
	st := s.Status(t)
	// A read that meets very many bad blocks notes the rest by whole units.
	if n := blocks(read, c.blockSize); st.Pending < n ||
		st.Pending > units(read)*4096/c.blockSize || st.Errors.Read < n {
		t.Errorf("pending %d, read errors %d, with %d bad blocks read, in %d units", st.Pending,
			st.Errors.Read, n, units(read))
	}
	if st.Spare.Used != 0 || st.Remaps != 0 {
		t.Errorf("reads alone used %d spare units, %d remaps", st.Spare.Used, st.Remaps)
	}
	// The pending blocks outlive the server, and the next server does not invent data for them.
	whole.Close()
	s.Restart(t)
	whole = rig.Open(t, s.Dev)
	for _, e := range read {
		if got := whole.Survey(t, e.Start, e.End(), c.blockSize, seed,
			d.ReadErrno()); !slices.Equal(got, []rig.Extent{e}) {
			t.Errorf("unreadable after a new start: %v, want %v", got, e)
		}
	}
	whole.Close()

	// Everything is written, most of it once, and read back meanwhile.
	job := []string{"rw=randwrite", "size=100%", rig.MixedSizes, "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32())}
	rep := rig.RunFio(t, s.Dev, append(job, "verify_backlog=64")...)
	if rep.WriteBytes != lay.Exported {
		t.Errorf("fio wrote %d bytes of %d", rep.WriteBytes, lay.Exported)
	}
	st = s.Status(t)
	if st.Pending != 0 || st.Lost != 0 {
		t.Errorf("pending %d, lost %d after everything was written", st.Pending, st.Lost)
	}
	if st.Remaps < units(want) || st.Spare.Used < st.Remaps ||
		st.Spare.Free > st.Spare.Total-st.Spare.Used {
		t.Errorf("remaps %d, spare %+v, with %d bad units", st.Remaps, st.Spare, units(want))
	}
	if c.kind != rig.KindScsi && (st.Errors.Write == 0 || st.Heals.Writes == 0) {
		t.Errorf("errors %+v, heals %+v after writes to bad blocks", st.Errors, st.Heals)
	}
	if st.Heals.Failed != 0 {
		t.Errorf("heals: %+v, although every write succeeded and nothing unreadable was read",
			st.Heals)
	}
	if st.State != "live" && st.State != "degraded" || st.Breaker.State != "closed" {
		t.Errorf("state %s, breaker %+v", st.State, st.Breaker)
	}
	remaps := s.Remaps(t)
	for _, e := range want {
		if !covered(remaps, e.Start/c.blockSize, e.End()/c.blockSize) {
			t.Errorf("remap list has nothing for %v", e)
		}
	}

	s.Restart(t)
	if rep := rig.RunFio(t, s.Dev, append(job, "verify_only")...); rep.ReadBytes < lay.Exported {
		t.Errorf("fio verified %d bytes of %d", rep.ReadBytes, lay.Exported)
	}
	// Reads and writes mixed, over what is remapped now.
	rig.RunFio(t, s.Dev, "rw=randrw", "size=24M", rig.MixedSizes, "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32()))

	useFileSystem(t, s, c.fs, rng)
}

// useFileSystem makes a file system, puts files and a fio file into it, and
// finds them again after a new start.
func useFileSystem(t *testing.T, s *rig.Set, fs string, rng *rand.Rand) {
	rig.Mkfs(t, fs, s.Dev)
	dir := s.Mount(t, fs)
	tree := rig.PlantTree(t, dir, rng)
	tree.Verify(t, dir)
	job := []string{"rw=randwrite", "size=16M", "bsrange=4k-256k", "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32())}
	rig.RunFio(t, dir+"/fio", job...)
	rig.Unmount(t, dir)
	rig.Fsck(t, fs, s.Dev)

	s.Restart(t)
	rig.Fsck(t, fs, s.Dev)
	dir = s.Mount(t, fs)
	tree.Verify(t, dir)
	rig.RunFio(t, dir+"/fio", append(job, "verify_only")...)
	rig.Unmount(t, dir)
}

// clip is what of the extents lies in [from, to).
func clip(in []rig.Extent, from, to int64) []rig.Extent {
	var out []rig.Extent
	for _, e := range in {
		if e = e.Cut(from, to); e.Length > 0 {
			out = append(out, e)
		}
	}
	return out
}

// badPlaces chooses where a disk goes bad.
func badPlaces(rng *rand.Rand, c cell, l rig.Layout) []rig.Extent {
	bs := c.blockSize
	var bad []rig.Extent
	// somewhere is a multiple of align in [from, to) with room for length.
	somewhere := func(from, to, length, align int64) int64 {
		from = (from + align - 1) / align * align
		return from + rng.Int64N((to-length-from)/align+1)*align
	}
	data := func(length, align int64) int64 { return somewhere(l.Head, l.Exported, length, align) }
	for range 14 { // single blocks
		bad = append(bad, rig.At(data(bs, bs), bs))
	}
	for range 8 { // runs
		n := bs * (2 + rng.Int64N(30))
		bad = append(bad, rig.At(data(n, bs), n))
	}
	for range 4 { // bad, good, bad: neighbours in one unit or in three
		at := data(3*bs, bs)
		bad = append(bad, rig.At(at, bs), rig.At(at+2*bs, bs))
	}
	for range 4 { // over a boundary of 1 MiB
		at := somewhere(l.Head+1<<20, l.Exported-1<<20, 0, 1<<20)
		bad = append(bad, rig.At(at-2*bs, 3*bs))
	}
	for range 6 { // over a boundary of a unit
		at := data(4096, 4096) + 4096
		bad = append(bad, rig.At(at-bs, 2*bs))
	}
	// All of one large request.
	bad = append(bad, rig.At(data(128<<10, 64<<10), 128<<10))
	// The first and the last blocks, and on both sides of where the head ends.
	bad = append(bad, rig.At(l.HeadAt().Start, bs), rig.At(l.HeadAt().End()-bs, bs),
		rig.At(l.Head, bs), rig.At(l.Exported-bs, bs))
	for range 5 { // in the displaced head
		n := bs * (1 + rng.Int64N(4))
		bad = append(bad, rig.At(somewhere(l.HeadAt().Start, l.HeadAt().End(), n, bs), n))
	}
	// In the logs, where records will go: never the same place in both.
	bad = append(bad, rig.At(l.Logs(0)[0].Start+2*l.Atom, bs), rig.At(l.Logs(0)[0].Start+5*l.Atom,
		l.Atom))
	if c.kind == rig.KindScsi {
		// If a spare unit takes a write and does not return it, nothing can notice that in time.
		return rig.Merge(bad)
	}
	bad = append(bad, rig.At(l.Logs(0)[1].Start+9*l.Atom, l.Atom))
	for range 6 { // in the spare region
		bad = append(bad, rig.At(somewhere(l.Spare().Start, l.Spare().End(), 2*bs, bs), 2*bs))
	}
	return rig.Merge(bad)
}

// blocks is how many blocks the extents have, units how many units they touch.
func blocks(in []rig.Extent, blockSize int64) int64 {
	n := int64(0)
	for _, e := range in {
		n += e.Length / blockSize
	}
	return n
}

func units(in []rig.Extent) int64 {
	n, last := int64(0), int64(-1)
	for _, e := range in {
		first := max(e.Start/4096, last+1)
		last = (e.End() - 1) / 4096
		n += last - first + 1
	}
	return n
}

// covered says whether mapped rows cover the blocks [from, to). Rows are in order.
func covered(rows []rig.Row, from, to int64) bool {
	for _, r := range rows {
		if r.State == "mapped" && r.Block <= from && from < r.Block+r.Count {
			from = r.Block + r.Count
		}
	}
	return from >= to
}

// dataPath is the flag of start that forces a way for the data.
func dataPath(zeroCopy bool) string {
	if zeroCopy {
		return "--zero-copy=on"
	}
	return "--zero-copy=off"
}
