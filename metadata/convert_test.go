package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"unsafe"
)

// cutDisk is a disk in memory with a volatile cache, that takes I/O in blocks
// and shows every write to a hook before it is done.
type cutDisk struct {
	size     int64
	block    int64
	pages    map[int64]*[PageSize]byte // durable; immutable, so that clones share them
	pending  []memWrite
	badRead  map[int64]bool // sectors
	badWrite map[int64]bool
	torn     map[int64]bool // sectors that cannot be read until they are written
	before   func(d *cutDisk, w memWrite)
}

func newCutDisk(size, block int64) *cutDisk {
	return &cutDisk{size: size, block: block, pages: map[int64]*[PageSize]byte{},
		badRead: map[int64]bool{}, badWrite: map[int64]bool{}, torn: map[int64]bool{}}
}

func (d *cutDisk) clone() *cutDisk {
	return &cutDisk{
		size: d.size, block: d.block, pages: maps.Clone(d.pages), pending: append([]memWrite(nil),
			d.pending...),
		badRead: maps.Clone(d.badRead), badWrite: maps.Clone(d.badWrite), torn: maps.Clone(d.torn),
	}
}

func (d *cutDisk) Size() int64 { return d.size }

func (d *cutDisk) check(b []byte, off int64) {
	if off%d.block != 0 || int64(len(b))%d.block != 0 || len(b) == 0 ||
		uintptr(unsafe.Pointer(&b[0]))%PageSize != 0 || off < 0 || off+int64(len(b)) > d.size {
		panic(fmt.Sprintf("I/O of %d bytes at %d of %d, memory at %p", len(b), off, d.size, &b[0]))
	}
}

func anyBad(bad map[int64]bool, off int64, n int) bool {
	for s := off / sector; len(bad) > 0 && s < (off+int64(n)+sector-1)/sector; s++ {
		if bad[s] {
			return true
		}
	}
	return false
}

func (d *cutDisk) ReadAt(b []byte, off int64) (int, error) {
	d.check(b, off)
	if anyBad(d.badRead, off, len(b)) || anyBad(d.torn, off, len(b)) && !d.cached(b, off) {
		return 0, errMedium
	}
	d.peek(b, off)
	return len(b), nil
}

// cached reports whether a read is answered by what was written and not yet
// flushed.
func (d *cutDisk) cached(b []byte, off int64) bool {
	for s := off / sector; s < (off+int64(len(b)))/sector; s++ {
		hit := !d.torn[s]
		for _, w := range d.pending {
			hit = hit || w.off <= s*sector && (s+1)*sector <= w.off+int64(len(w.data))
		}
		if !hit {
			return false
		}
	}
	return true
}

// peek reads without faults.
func (d *cutDisk) peek(b []byte, off int64) {
	for done := 0; done < len(b); {
		at := off + int64(done)
		in := at % PageSize
		n := min(len(b)-done, int(PageSize-in))
		if p := d.pages[at/PageSize]; p != nil {
			copy(b[done:done+n], p[in:])
		} else {
			clear(b[done : done+n])
		}
		done += n
	}
	for _, w := range d.pending {
		from, to := max(off, w.off), min(off+int64(len(b)), w.off+int64(len(w.data)))
		if from < to {
			copy(b[from-off:to-off], w.data[from-w.off:])
		}
	}
}

func (d *cutDisk) WriteAt(b []byte, off int64) (int, error) {
	d.check(b, off)
	if anyBad(d.badWrite, off, len(b)) {
		return 0, errMedium
	}
	w := memWrite{off, append([]byte(nil), b...)}
	if d.before != nil {
		d.before(d, w)
	}
	d.pending = append(d.pending, w)
	return len(b), nil
}

func (d *cutDisk) Sync() error {
	for _, w := range d.pending {
		d.store(w, nil)
	}
	d.pending = nil
	return nil
}

func (d *cutDisk) store(w memWrite, keep func(s int) bool) {
	var p *[PageSize]byte
	last := int64(-1)
	for i := 0; i < len(w.data); i += sector {
		if keep != nil && !keep(i/sector) {
			continue
		}
		at := w.off + int64(i)
		if at/PageSize != last {
			last = at / PageSize
			p = new([PageSize]byte)
			if old := d.pages[last]; old != nil {
				*p = *old
			}
			d.pages[last] = p
		}
		copy(p[at%PageSize:], w.data[i:i+sector])
		delete(d.torn, at/sector)
	}
}

// poke changes durable content, without faults.
func (d *cutDisk) poke(b []byte, off int64) { d.store(memWrite{off, b}, nil) }

// What becomes of writes that were not flushed before a power cut.
const (
	fateLost = iota
	fateKept
	fateFirstHalf
	fateLastHalf
	fateRandom
	fateUnreadable // a sector that was being written cannot be read afterwards
	fateNewest     // the newest write is kept, those before it are lost
	fates
)

func (d *cutDisk) settle(fate int, r *rand.Rand) {
	for i, w := range d.pending {
		n := len(w.data) / sector
		f := fate
		if len(d.pending)-1-i > 0 && fate != fateLost && fate != fateKept && fate != fateNewest {
			f = r.IntN(fates) // older writes at random, the newest as asked
		}
		switch f {
		case fateLost:
		case fateNewest:
			if i == len(d.pending)-1 {
				d.store(w, nil)
			}
		case fateKept:
			d.store(w, nil)
		case fateFirstHalf:
			k := (n + 1) / 2
			if r.IntN(2) == 0 {
				k = r.IntN(n + 1)
			}
			d.store(w, func(s int) bool { return s < k })
		case fateLastHalf:
			k := n / 2
			if r.IntN(2) == 0 {
				k = r.IntN(n + 1)
			}
			d.store(w, func(s int) bool { return s >= k })
		case fateUnreadable:
			// The page of 4096 bytes is the sector of some disks.
			d.store(w, func(s int) bool { return s < n/2 })
			at := w.off/sector + int64(r.IntN(n))
			for k := at &^ (d.block/sector - 1); k <= at|(d.block/sector-1); k++ {
				d.torn[k] = true
			}
		default:
			d.store(w, func(int) bool { return r.IntN(2) == 0 })
		}
	}
	d.pending = nil
}

// scene is a disk with data, the bytes that it must keep showing, and the devices.
type scene struct {
	t     testing.TB
	r     *rand.Rand
	p     PlanParams
	disks []*cutDisk
	want  map[int64]*[PageSize]byte // by page of the exported bytes; zero where nil
	size  int64                     // exported
	block int64
	lost  map[uint64]bool // exported blocks that have no copy
	taken map[uint64]bool // exported blocks that the old disk has elsewhere
	opts  ConvertOptions
	dirty map[int64]bool // pages that are worth a look

	cuts, plain, sets int
	depth             int // how deep cuts during the recovery from a cut go
	sample            int // of the cuts at depth 2, one in so many
	fates             []int
	quick             bool   // one fate and one goal for each cut, at random
	goals             []bool // from each cut on: to the plain disk, to the set
}

func newScene(t testing.TB, p PlanParams, seed uint64) *scene {
	s := &scene{
		t: t, r: rand.New(rand.NewPCG(seed, 11)), p: p, block: int64(p.BlockSize),
		want: map[int64]*[PageSize]byte{}, lost: map[uint64]bool{}, dirty: map[int64]bool{},
		opts: ConvertOptions{Now: 1000, Chunk: 256 << 10},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	plan := s.plan()
	s.size = plan.sb.ExportedBytes
	s.disks = append(s.disks, newCutDisk(p.BackingSize, s.block))
	if p.SpareDeviceSize != 0 {
		s.disks = append(s.disks, newCutDisk(p.SpareDeviceSize, s.block))
	}
	// The head, the first bytes behind it, and here and there.
	for page := int64(0); page < s.size/PageSize; page++ {
		tail := plan.sb.TailStart != 0 && page >= plan.sb.TailStart/PageSize-4
		if page < plan.sb.HeadBytes/PageSize+4 || tail || s.r.IntN(40) == 0 {
			b := s.bytes()
			if page == 0 || s.r.IntN(8) == 0 {
				clear(b[1024:2048]) // zeroes are what a superblock has as well
			}
			s.want[page] = b
			s.dirty[page] = true
			s.disks[0].poke(b[:], page*PageSize)
		}
	}
	return s
}

func (s *scene) bytes() *[PageSize]byte {
	b := new([PageSize]byte)
	for i := 0; i < PageSize; i += 8 {
		le.PutUint64(b[i:], s.r.Uint64())
	}
	return b
}

func (s *scene) plan() *Layout {
	s.p.Name = "scene"
	l, err := Plan(s.p)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func asDevices(disks []*cutDisk) []Device {
	out := make([]Device, len(disks))
	for i, d := range disks {
		out[i] = d
	}
	return out
}

// expect is what the exported block holds.
func (s *scene) expect(block uint64) []byte {
	off := int64(block) * s.block
	if p := s.want[off/PageSize]; p != nil {
		return p[off%PageSize : off%PageSize+s.block]
	}
	return make([]byte, s.block)
}

// drive does what the command does, whatever it finds, until the disk is
// plain or a set.
func (s *scene) drive(disks []*cutDisk, plain bool, o ConvertOptions) error {
	return s.driveDevices(asDevices(disks), plain, o)
}

func (s *scene) driveDevices(disks []Device, plain bool, o ConvertOptions) error {
	sb, devs, err := Interrupted(disks[0], disks[1:])
	if err != nil {
		return err
	}
	switch {
	case sb == nil:
		sb, err := Probe(disks[0])
		if errors.Is(err, ErrPath) {
			return err
		}
		if sb == nil {
			if plain {
				return nil
			}
			_, err = Convert(disks, s.plan(), o)
			return err
		}
		img, err := Load(disks)
		if err != nil || !plain {
			return err
		}
		_, err = Revert(img, o)
		return err
	case sb.Transition == TransitionCopied:
		if err := UndoConvert(devs, sb, o.Force); err != nil {
			return err
		}
	case sb.Transition == TransitionConverting && !plain:
		return ResumeConvert(devs, sb, o)
	case sb.Transition == TransitionConverting:
		_, err := RevertConverting(devs, sb, o)
		return err
	default:
		if _, err := ResumeRevert(devs, sb, o); err != nil {
			return err
		}
	}
	if plain {
		return nil
	}
	_, err = Convert(disks, s.plan(), o)
	return err
}

// isPlain fails unless the disk is one without any set, with its old bytes.
func (s *scene) isPlain(disks []*cutDisk, what string) {
	s.t.Helper()
	for i, d := range disks {
		// The place of a superblock that was being erased may be unreadable.
		if sb, err := Probe(d); sb != nil {
			s.t.Fatalf("%s: plain, but device %d shows %v, %v", what, i, sb, err)
		}
	}
	b := make([]byte, s.block)
	for page := range s.dirty {
		for off := page * PageSize; off < (page+1)*PageSize; off += s.block {
			if s.lost[uint64(off/s.block)] || s.taken[uint64(off/s.block)] ||
				anyBad(disks[0].badRead, off, int(s.block)) {
				continue
			}
			if anyBad(disks[0].torn, off, int(s.block)) {
				s.t.Fatalf("%s: plain, but block %d cannot be read", what, off/s.block)
			}
			if disks[0].peek(b, off); !bytes.Equal(b, s.expect(uint64(off/s.block))) {
				s.t.Fatalf("%s: plain, but block %d is wrong", what, off/s.block)
			}
		}
	}
}

// isSet fails unless the disks are a set that shows the bytes.
func (s *scene) isSet(disks []*cutDisk, what string) {
	s.t.Helper()
	img, err := Load(asDevices(disks))
	if err != nil {
		s.t.Fatalf("%s: load: %v", what, err)
	}
	v, err := NewView(img)
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	buf := AlignedBytes(PageSize)
	for page := range s.dirty {
		bad := map[uint64]bool{}
		v.read(buf, page*PageSize, func(b uint64, _ error) { bad[b] = true })
		for i := int64(0); i < PageSize; i += s.block {
			switch b := uint64((page*PageSize + i) / s.block); {
			case bad[b] != s.lost[b]:
				s.t.Fatalf("%s: set, block %d: without a copy: %v, want %v", what, b, bad[b],
					s.lost[b])
			case !bad[b] && !bytes.Equal(buf[i:i+s.block], s.expect(b)):
				s.t.Fatalf("%s: set, but block %d is wrong", what, b)
			}
		}
	}
	if r, err := Check(asDevices(disks)); err != nil || !r.OK() {
		s.t.Fatalf("%s: check: %v\n%s", what, err, r.String())
	}
}

// look says what a disk is as a user meets it, and fails if that is neither the
// old disk, nor the set, nor something to be finished.
func (s *scene) look(disks []*cutDisk, depth int, what string) {
	s.t.Helper()
	sb, _, err := Interrupted(disks[0], asDevices(disks[1:]))
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	if sb == nil {
		if _, err := Probe(disks[0]); err == nil {
			s.sets++
			s.isSet(disks, what)
		}
		return
	}
	if len(disks) == 1 {
		if _, err := Load(asDevices(disks)); !errors.Is(err, ErrUnfinished) {
			s.t.Fatalf("%s: load of %s: %v", what, sb.Transition, err)
		}
	}
	if len(disks) == 1 && sb.Transition == TransitionConverting && depth == 1 &&
		hasSuperblock(disks[0], tailSuperblock(disks[0].size)) {
		// The page that decides is lost as well. The superblock in the tail, unless the cut has
		// torn it, must say how far the conversion or the revert went.
		lost := cloneDisks(disks)
		for k := range int64(PageSize / sector) {
			lost[0].torn[sb.Mark/sector+k] = true
		}
		s.end(lost, false, what+", and its page lost")
	}
	if sb.Transition != TransitionCopied {
		return
	}
	// The old disk is still whole, except for the page whose write may be torn.
	s.plain++
	b := make([]byte, s.block)
	for page := range s.dirty {
		for off := page * PageSize; off < (page+1)*PageSize; off += s.block {
			if off >= sb.Mark && off < sb.Mark+PageSize || s.lost[uint64(off/s.block)] {
				continue
			}
			want := s.expect(uint64(off / s.block))
			if s.taken[uint64(off/s.block)] {
				want = bytes.Repeat([]byte{elsewhere}, int(s.block))
			}
			if disks[0].peek(b, off); !bytes.Equal(b, want) {
				s.t.Fatalf("%s: %s, but block %d was changed", what, sb.Transition, off/s.block)
			}
		}
	}
}

// hasSuperblock reports whether a whole superblock is at off.
func hasSuperblock(d Device, off int64) bool {
	return slices.ContainsFunc(readSuperblocks(d), func(c foundCopy) bool {
		return c.offset == off &&
			c.sb != nil
	})
}

// cutEvery drives disks to a goal, and cuts the power before and during every
// write on the way; from each cut it goes on to both ends.
func (s *scene) cutEvery(disks []*cutDisk, plain bool, depth int, what string) []*cutDisk {
	s.t.Helper()
	live := make([]*cutDisk, len(disks))
	n := 0
	for i, d := range disks {
		live[i] = d.clone()
	}
	for _, d := range live {
		d.before = func(d *cutDisk, w memWrite) {
			n++
			if depth > 1 && s.sample > 1 && s.r.IntN(s.sample) > 0 {
				return
			}
			fates, goals := s.choices(depth)
			for i, fate := range fates {
				if !sampled(n+i, 3) {
					continue
				}
				after := make([]*cutDisk, len(live))
				for i, l := range live {
					after[i] = l.clone()
					if l == d {
						after[i].pending = append(after[i].pending, w)
					}
					after[i].settle(fate, s.r)
				}
				s.cuts++
				where := fmt.Sprintf("%s, write %d (%d bytes at %d of device %d), fate %d", what, n,
					len(w.data), w.off, slices.Index(live, d), fate)
				s.look(after, depth, where)
				for _, goal := range goals {
					if depth < s.depth {
						s.cutEvery(after, goal, depth+1, where+", then")
						continue
					}
					s.end(after, goal, where)
				}
			}
		}
	}
	if err := s.drive(live, plain, s.opts); err != nil {
		s.t.Fatalf("%s: to plain %v: %v", what, plain, err)
	}
	for _, d := range live {
		d.before = nil
		if len(d.pending) > 0 {
			s.t.Fatalf("%s: %d writes were never flushed", what, len(d.pending))
		}
	}
	s.end(live, plain, what+" to the end")
	return live
}

// end drives a copy of the disks to a goal, which must be reached.
func (s *scene) end(disks []*cutDisk, plain bool, what string) {
	s.t.Helper()
	disks = cloneDisks(disks)
	if err := s.drive(disks, plain, s.opts); err != nil {
		s.t.Fatalf("%s: then to plain %v: %v", what, plain, err)
	}
	if plain {
		s.isPlain(disks, what)
	} else {
		s.isSet(disks, what)
	}
}

func cloneDisks(disks []*cutDisk) []*cutDisk {
	out := make([]*cutDisk, len(disks))
	for i, d := range disks {
		out[i] = d.clone()
	}
	return out
}

type sceneCase struct {
	name string
	p    PlanParams
	mark int64
}

// eachScene runs a test over all kinds of sets; over two of them with the race
// detector, which finds nothing here and is slow. METADATA_SEEDS asks for more
// rounds.
func eachScene(t *testing.T, f func(t *testing.T, tc sceneCase, seed uint64)) {
	for i, tc := range sceneParams {
		if raceDetector && !full() && i%4 > 0 {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			for round := range seeds(1) {
				f(t, tc, uint64(i)+round*100)
			}
		})
	}
}

var sceneParams = []sceneCase{
	{"alone-512", PlanParams{BackingSize: 8 << 20, BlockSize: 512, SpareBytes: 128 << 10}, 0},
	{"alone-4096", PlanParams{BackingSize: 8 << 20, BlockSize: 4096, SpareBytes: 128 << 10}, 0},
	{"alone-512-mark-64k", PlanParams{BackingSize: 8 << 20, BlockSize: 512, SpareBytes: 128 << 10},
		SuperblockStride},
	{"pair-512", PlanParams{BackingSize: 8<<20 + 5*512, BlockSize: 512, SpareBytes: 128 << 10,
		SpareDeviceSize: 8 << 20}, 0},
	{"pair-4096", PlanParams{BackingSize: 8 << 20, BlockSize: 4096, SpareBytes: 128 << 10,
		SpareDeviceSize: 8 << 20}, 0},
	{"pair-512-kept-tail", PlanParams{BackingSize: 8 << 20, BlockSize: 512, SpareBytes: 128 << 10,
		SpareDeviceSize: 8 << 20, KeepTail: true}, 0},
}

// full reports whether the long form of a test is asked for.
func full() bool { return os.Getenv("UBLK_REMAP_FULL") != "" }

// thorough sets how much of what can happen is tried.
func (s *scene) thorough() {
	s.depth, s.fates, s.goals = 1, []int{fateLost, fateKept, fateFirstHalf, fateLastHalf,
		fateRandom, fateUnreadable, fateNewest}, []bool{false, true}
	if full() {
		s.depth, s.sample = 2, 24
		return
	}
	s.quick = true
}

// choices are the fates and goals to try at a cut: all, or one of each.
func (s *scene) choices(depth int) (fates []int, goals []bool) {
	if !s.quick && depth == 1 {
		return s.fates, s.goals
	}
	f, g := s.r.IntN(len(s.fates)), s.r.IntN(len(s.goals))
	return s.fates[f : f+1], s.goals[g : g+1]
}

func (s *scene) badBlock(d *cutDisk, off int64, read, write bool) {
	for i := int64(0); i < s.block; i += sector {
		if read {
			d.badRead[(off+i)/sector] = true
		}
		if write {
			d.badWrite[(off+i)/sector] = true
		}
	}
}

// TestConvertCut converts a disk with unreadable blocks in its head and unwritable blocks in its
// displaced head, and cuts at every write.
func TestConvertCut(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		s := newScene(t, tc.p, seed)
		s.opts.Mark = tc.mark
		s.thorough()
		plan := s.plan()
		for _, off := range []int64{40960, 300 << 10, 300<<10 + s.block, 700 << 10} {
			s.badBlock(s.disks[0], off, true, false)
			s.lost[uint64(off/s.block)] = true
		}
		head := s.disks[plan.headDev]
		s.badBlock(head, plan.headStart+80<<10, false, true)
		s.badBlock(head, plan.headStart+500<<10, true, false)
		s.badBlock(head, plan.headStart+500<<10+3*s.block, true, true)
		// Blocks without a copy are not compared: the plain disk still has there what it had. Such
		// a disk is given back only by force.
		s.opts.Force = true
		s.cutEvery(s.disks, false, 1, "convert")
		t.Logf("%d cuts; %d left the old disk, %d the set at once", s.cuts, s.plain, s.sets)
	})
}

// TestRevertCut gives back a set with a history, and cuts at every write.
func TestRevertCut(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		s := newScene(t, tc.p, 1<<20+seed)
		s.opts.Mark = tc.mark
		s.thorough()
		s.takenOver()
		s.live(false)
		s.isSet(s.disks, "after its life")
		s.cutEvery(s.disks, true, 1, "release")
		t.Logf("%d cuts; %d left the set at once", s.cuts, s.sets)
	})
}

// TestRevertForced gives back a set with blocks that have no copy.
func TestRevertForced(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		s := newScene(t, tc.p, 2<<20+seed)
		s.opts.Mark = tc.mark
		s.thorough()
		s.depth = 1
		s.takenOver()
		s.live(true)
		s.isSet(s.disks, "after its life")
		img, err := Load(asDevices(s.disks))
		if err != nil {
			t.Fatal(err)
		}
		var stuck *StuckError
		before := cloneDisks(s.disks)
		if _, err := Revert(img, s.opts); !errors.As(err, &stuck) ||
			countBlocks(stuck.NoCopy) != uint64(len(s.lost)) {
			t.Fatalf("release of a set with blocks that have no copy: %v", err)
		}
		for i := range before {
			if !maps.Equal(before[i].pages, s.disks[i].pages) {
				t.Error("a refused release wrote something")
			}
		}
		s.opts.Force = true
		s.goals = []bool{true} // a set made of it anew has read the lost blocks somehow
		s.cutEvery(s.disks, true, 1, "release by force")
		t.Logf("%d cuts", s.cuts)
	})
}

func (s *scene) takenOver() {
	if _, err := Convert(asDevices(s.disks), s.plan(), s.opts); err != nil {
		s.t.Fatal(err)
	}
}

// live starts the set and remaps blocks of all kinds: in the data, in the
// displaced head, also where that stays bad, in several spare units, pending;
// and, if asked for, lost ones and some that their spare unit cannot read.
func (s *scene) live(losses bool) {
	img, err := Load(asDevices(s.disks))
	if err != nil {
		s.t.Fatal(err)
	}
	table, err := img.Table()
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := NewCommitter(img, table, Options{Session: 7})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Open(1001); err != nil {
		s.t.Fatal(err)
	}
	RunOps(c, asDevices(s.disks), nil)
	l := img.Layout()
	per := uint64(UnitSize / s.block)
	spare := uint32(0)
	commit := func(e Entry) {
		e.Time, e.Count = 1002, 1
		if err := table.Apply(e); err != nil {
			s.t.Fatal(err)
		}
		t, err := c.Commit([]Entry{e})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range RunOps(c, asDevices(s.disks), nil) {
			if r.Ticket == t && r.Outcome != OutcomeDurable {
				s.t.Fatal(r)
			}
		}
	}
	remap := func(block uint64) {
		unit := block / per
		dev, home := l.HomeOf(block)
		junk := s.bytes()
		s.disks[dev].poke(junk[:s.block], home) // what a failed write left behind
		d, at := l.SpareOf(spare)
		data := s.bytes()
		s.disks[d].poke(data[:s.block], at+int64(block%per)*s.block)
		p := new([PageSize]byte)
		if old := s.want[int64(unit)]; old != nil {
			*p = *old
		}
		copy(p[int64(block%per)*s.block:], data[:s.block])
		s.want[int64(unit)], s.dirty[int64(unit)] = p, true
		commit(Entry{Unit: unit, Spare: spare, Mask: 1 << (block % per), State: StateMapped,
			Cause: CauseWrite})
		spare++
	}
	head := l.HeadBlocks()
	badHome := func(block uint64) {
		dev, home := l.HomeOf(block)
		s.badBlock(s.disks[dev], home, true, true)
	}
	blocks := []uint64{0, 3, 16 * per, 17 * per, head - 1, head, head + per + 1,
		uint64(s.size/s.block) - 1}
	if per > 1 {
		blocks = append(blocks, 16*per+1, head+per, head+per+2)
	}
	for _, b := range blocks {
		remap(b)
	}
	// Places of the displaced head that stay bad: their blocks go to the front
	// from the spare region.
	for _, b := range []uint64{0, 17 * per} {
		badHome(b)
	}
	// Pending, and readable again.
	commit(Entry{Unit: (head + 9*per) / per, Mask: 1, State: StatePending, Cause: CauseRead})
	commit(Entry{Spare: spare, State: StateRetired, Cause: CauseSpare})
	spare++
	if losses {
		for _, b := range []uint64{5 * per, head + 20*per} {
			s.lost[b] = true
			s.dirty[int64(b/per)] = true
			commit(Entry{Unit: b / per, Mask: 1, State: StateLost, Cause: CauseUnknown})
		}
		for _, b := range []uint64{6 * per, head + 22*per} {
			remap(b)
			d, at := l.SpareOf(spare - 1)
			s.badBlock(s.disks[d], at, true, false)
			s.lost[b] = true
			commit(Entry{Unit: b / per, Mask: 1, State: StatePending, Cause: CauseRead})
		}
	}
	RunOps(c, asDevices(s.disks), nil)
	for _, d := range s.disks {
		if err := d.Sync(); err != nil {
			s.t.Fatal(err)
		}
	}
}
