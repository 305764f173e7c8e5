package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/test/vmtest"
)

// SeedEnv names the environment variable that repeats a run's random choices.
const SeedEnv = "UBLK_REMAP_SEED"

// random is a source of random choices whose seed is in the test's log.
func random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(SeedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", SeedEnv, err)
		}
	}
	t.Logf("seed: %s=%d", SeedEnv, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// cell is one combination of the matrix.
type cell struct {
	kind      kind
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
	for _, k := range []kind{kindLoop, kindNull, kindScsi} {
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

// pairs are all pairs of values that a cell has, but for those that have nothing to
// do with each other, which makes the choice smaller.
func (c cell) pairs() []string {
	v := []struct{ name, value string }{
		{"kind", string(c.kind)}, {"block", fmt.Sprint(c.blockSize)},
		{"queues", fmt.Sprint(c.queues)},
		{"zerocopy", fmt.Sprint(c.zeroCopy)}, {"batch", fmt.Sprint(c.batch)},
		{"tuned", fmt.Sprint(c.tuned)}, {"fs", c.fs},
	}
	unrelated := map[string]bool{"block batch": true, "block tuned": true, "tuned fs": true}
	var out []string
	for i, a := range v {
		for _, b := range v[i+1:] {
			if !unrelated[a.name+" "+b.name] {
				out = append(out, a.name+"="+a.value+","+b.name+"="+b.value)
			}
		}
	}
	return out
}

// pairwise chooses cells so that every pair of values is in one of them:
// always the cell that has most of the pairs that are still missing.
func pairwise(all []cell) []cell {
	missing := map[string]bool{}
	for _, c := range all {
		for _, p := range c.pairs() {
			missing[p] = true
		}
	}
	var chosen []cell
	for len(missing) > 0 {
		best, most := cell{}, 0
		for _, c := range all {
			n := 0
			for _, p := range c.pairs() {
				if missing[p] {
					n++
				}
			}
			if n > most {
				best, most = c, n
			}
		}
		for _, p := range best.pairs() {
			delete(missing, p)
		}
		chosen = append(chosen, best)
	}
	return chosen
}

func TestPairwise(t *testing.T) {
	all := cross()
	chosen := pairwise(all)
	have := map[string]bool{}
	for _, c := range chosen {
		for _, p := range c.pairs() {
			have[p] = true
		}
	}
	for _, c := range all {
		for _, p := range c.pairs() {
			if !have[p] {
				t.Errorf("no chosen cell has %s", p)
			}
		}
	}
	if len(chosen) > len(all)/3 {
		t.Errorf("%d of %d cells were chosen", len(chosen), len(all))
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
	if !vmtest.Full() {
		cells = pairwise(cells)
	}
	for _, c := range cells {
		t.Run(c.String(), func(t *testing.T) {
			guard(t, 6*time.Minute)
			testCell(t, c)
		})
	}
}

func testCell(t *testing.T, c cell) {
	rng := random(t)
	d := newDisk(t, c.kind, diskMiB, c.blockSize)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	lay := layoutOf(t, d)
	c.way.start(t, s, "--queues", fmt.Sprint(c.queues))
	if st := s.status(t); st.Features.ZeroCopy != c.zeroCopy || st.Features.BatchIO != c.batch ||
		st.BlockSize != c.blockSize || st.SizeBlocks != lay.exported/c.blockSize {
		t.Errorf("status: %+v, want blocks of %d, %d of them, %v", st, c.blockSize,
			lay.exported/c.blockSize, c.way)
	}

	// What is there before the disk goes bad must be read, or not, but never
	// something else.
	const seed = 7
	whole := openUntilClosed(t, s.dev)
	whole.fill(t, 0, whole.size, seed)
	whole.close()
	s.restart(t)
	d.setBad(t, badPlaces(rng, c, lay))
	t.Logf("bad: %v", d.bad)
	want := lay.exportedOf(d.bad)

	// Bad blocks are met by reads in the first part of the device and by writes
	// in the second. Where writes tell nothing all must be read.
	known := whole.size / 2 &^ (4096 - 1)
	if c.kind == kindScsi {
		known = whole.size
	}
	read := clip(want, 0, known)
	whole = openUntilClosed(t, s.dev)
	got := whole.survey(t, 0, known, c.blockSize, seed, d.readErrno())
	if !slices.Equal(got, read) {
		t.Errorf("unreadable: %v\nwant %v", got, read)
	}
	st := s.status(t)
	// A read that meets very many bad blocks notes the rest by whole units.
	if n := blocks(read, c.blockSize); st.Pending < n ||
		st.Pending > units(read)*4096/c.blockSize || st.Errors.Read < n {
		t.Errorf("pending %d, read errors %d, with %d bad blocks read, in %d units", st.Pending,
			st.Errors.Read, n, units(read))
	}
	if st.Spare.Used != 0 || st.Remaps != 0 {
		t.Errorf("reads alone used %d spare units, %d remaps", st.Spare.Used, st.Remaps)
	}
	// The pending blocks outlive the server, and the next one invents nothing
	// either.
	whole.close()
	s.restart(t)
	whole = openUntilClosed(t, s.dev)
	for _, e := range read {
		if got := whole.survey(t, e.start, e.end(), c.blockSize, seed,
			d.readErrno()); !slices.Equal(got, []extent{e}) {
			t.Errorf("unreadable after a new start: %v, want %v", got, e)
		}
	}
	whole.close()

	// Everything is written, most of it once, and read back meanwhile.
	job := []string{"rw=randwrite", "size=100%", mixedSizes, "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32())}
	rep := fio(t, s.dev, append(job, "verify_backlog=64")...)
	if rep.writeBytes != lay.exported {
		t.Errorf("fio wrote %d bytes of %d", rep.writeBytes, lay.exported)
	}
	st = s.status(t)
	if st.Pending != 0 || st.Lost != 0 {
		t.Errorf("pending %d, lost %d after everything was written", st.Pending, st.Lost)
	}
	if st.Remaps < units(want) || st.Spare.Used < st.Remaps ||
		st.Spare.Free > st.Spare.Total-st.Spare.Used {
		t.Errorf("remaps %d, spare %+v, with %d bad units", st.Remaps, st.Spare, units(want))
	}
	if c.kind != kindScsi && (st.Errors.Write == 0 || st.Heals.Writes == 0) {
		t.Errorf("errors %+v, heals %+v after writes to bad blocks", st.Errors, st.Heals)
	}
	if st.Heals.Failed != 0 {
		t.Errorf("heals: %+v, although every write succeeded and nothing unreadable was read",
			st.Heals)
	}
	if st.State != "live" && st.State != "degraded" || st.Breaker.State != "closed" {
		t.Errorf("state %s, breaker %+v", st.State, st.Breaker)
	}
	remaps := s.remaps(t)
	for _, e := range want {
		if !covered(remaps, e.start/c.blockSize, e.end()/c.blockSize) {
			t.Errorf("remap list has nothing for %v", e)
		}
	}

	s.restart(t)
	if rep := fio(t, s.dev, append(job, "verify_only")...); rep.readBytes < lay.exported {
		t.Errorf("fio verified %d bytes of %d", rep.readBytes, lay.exported)
	}
	// Reads and writes mixed, over what is remapped now.
	fio(t, s.dev, "rw=randrw", "size=24M", mixedSizes, "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32()))

	useFileSystem(t, s, c.fs, rng)
}

// useFileSystem makes a file system, puts files and a fio file into it, and
// finds them again after a new start.
func useFileSystem(t *testing.T, s *set, fs string, rng *rand.Rand) {
	mkfs(t, fs, s.dev)
	dir := mount(t, fs, s)
	tree := plantTree(t, dir, rng)
	tree.verify(t, dir)
	job := []string{"rw=randwrite", "size=16M", "bsrange=4k-256k", "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32())}
	fio(t, dir+"/fio", job...)
	umount(t, dir)
	fsck(t, fs, s.dev)

	s.restart(t)
	fsck(t, fs, s.dev)
	dir = mount(t, fs, s)
	tree.verify(t, dir)
	fio(t, dir+"/fio", append(job, "verify_only")...)
	umount(t, dir)
}

// layout is where things are on a disk with metadata. In bytes.
type layout struct {
	exported int64
	head     int64  // what is displaced
	headAt   extent // where it is
	spare    extent
	mirrors  []extent
	logs     []extent // of the mirrors
	atom     int64    // of a log record
}

// layoutOf reads the superblock of a disk that was just created.
func layoutOf(t testing.TB, d *disk) layout {
	t.Helper()
	f := openUntilClosed(t, d.path)
	defer f.close()
	sb, err := metadata.Probe(device{f})
	if err != nil {
		t.Fatal(err)
	}
	lay := layout{exported: sb.ExportedBytes, head: sb.HeadBytes, atom: int64(sb.AtomSize)}
	for _, r := range sb.Regions {
		at := extent{r.Start, r.Length}
		switch r.Kind {
		case metadata.RegionDisplacedHead:
			lay.headAt = at
		case metadata.RegionSpare:
			lay.spare = at
		case metadata.RegionMirror:
			lay.mirrors = append(lay.mirrors, at)
			// Two slots, then the log: metadata/FORMAT.md.
			lay.logs = append(lay.logs, extent{at.start + 2*sb.SlotBytes, sb.LogBytes})
		}
	}
	if lay.headAt.length != lay.head || lay.spare.length == 0 || len(lay.logs) != 2 {
		t.Fatalf("layout: %+v", lay)
	}
	return lay
}

// device is what package metadata wants of a disk.
type device struct{ f *direct }

func (d device) ReadAt(p []byte, off int64) (int, error)  { return len(p), d.f.read(p, off) }
func (d device) WriteAt(p []byte, off int64) (int, error) { return len(p), d.f.write(p, off) }
func (d device) Sync() error                              { return nil }
func (d device) Size() int64                              { return d.f.size }

// exportedOf turns places on the disk into places on the device, as far as
// they hold data.
func (l layout) exportedOf(bad []extent) []extent {
	var out []extent
	for _, e := range bad {
		if in := cut(e, l.head, l.exported); in.length > 0 {
			out = append(out, in)
		}
		if in := cut(e, l.headAt.start, l.headAt.end()); in.length > 0 {
			out = append(out, extent{in.start - l.headAt.start, in.length})
		}
	}
	return merge(out)
}

// homeOf turns a place on the device into places on the disk.
func (l layout) homeOf(e extent) []extent {
	var out []extent
	if in := cut(e, 0, l.head); in.length > 0 {
		out = append(out, extent{l.headAt.start + in.start, in.length})
	}
	if in := cut(e, l.head, l.exported); in.length > 0 {
		out = append(out, in)
	}
	return out
}

// clip is what of the extents lies in [from, to).
func clip(in []extent, from, to int64) []extent {
	var out []extent
	for _, e := range in {
		if e = cut(e, from, to); e.length > 0 {
			out = append(out, e)
		}
	}
	return out
}

func cut(e extent, from, to int64) extent {
	start, end := max(e.start, from), min(e.end(), to)
	return extent{start, max(end-start, 0)}
}

// badPlaces chooses where a disk goes bad.
func badPlaces(rng *rand.Rand, c cell, l layout) []extent {
	bs := c.blockSize
	var bad []extent
	// somewhere is a multiple of align in [from, to) with room for length.
	somewhere := func(from, to, length, align int64) int64 {
		from = (from + align - 1) / align * align
		return from + rng.Int64N((to-length-from)/align+1)*align
	}
	data := func(length, align int64) int64 { return somewhere(l.head, l.exported, length, align) }
	for range 14 { // single blocks
		bad = append(bad, extent{data(bs, bs), bs})
	}
	for range 8 { // runs
		n := bs * (2 + rng.Int64N(30))
		bad = append(bad, extent{data(n, bs), n})
	}
	for range 4 { // bad, good, bad: neighbours in one unit or in three
		at := data(3*bs, bs)
		bad = append(bad, extent{at, bs}, extent{at + 2*bs, bs})
	}
	for range 4 { // over a boundary of 1 MiB
		at := somewhere(l.head+1<<20, l.exported-1<<20, 0, 1<<20)
		bad = append(bad, extent{at - 2*bs, 3 * bs})
	}
	for range 6 { // over a boundary of a unit
		at := data(4096, 4096) + 4096
		bad = append(bad, extent{at - bs, 2 * bs})
	}
	// All of one large request.
	bad = append(bad, extent{data(128<<10, 64<<10), 128 << 10})
	// The first and the last blocks, and on both sides of where the head ends.
	bad = append(bad, extent{l.headAt.start, bs}, extent{l.headAt.end() - bs, bs},
		extent{l.head, bs}, extent{l.exported - bs, bs})
	for range 5 { // in the displaced head
		n := bs * (1 + rng.Int64N(4))
		bad = append(bad, extent{somewhere(l.headAt.start, l.headAt.end(), n, bs), n})
	}
	// In the logs, where records will go: never the same place in both.
	bad = append(bad, extent{l.logs[0].start + 2*l.atom, bs}, extent{l.logs[0].start + 5*l.atom,
		l.atom})
	if c.kind == kindScsi {
		// A spare unit that takes a write and does not give it back is beyond
		// what anybody can notice in time.
		return merge(bad)
	}
	bad = append(bad, extent{l.logs[1].start + 9*l.atom, l.atom})
	for range 6 { // in the spare region
		bad = append(bad, extent{somewhere(l.spare.start, l.spare.end(), 2*bs, bs), 2 * bs})
	}
	return merge(bad)
}

// blocks is how many blocks the extents have, units how many units they touch.
func blocks(in []extent, blockSize int64) int64 {
	n := int64(0)
	for _, e := range in {
		n += e.length / blockSize
	}
	return n
}

func units(in []extent) int64 {
	n, last := int64(0), int64(-1)
	for _, e := range in {
		first := max(e.start/4096, last+1)
		last = (e.end() - 1) / 4096
		n += last - first + 1
	}
	return n
}

// covered says whether mapped rows cover the blocks [from, to). Rows are in order.
func covered(rows []row, from, to int64) bool {
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
