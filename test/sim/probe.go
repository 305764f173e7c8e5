package sim

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file damages copies of the disks between two servers, exchanges them, and judges what a load
// says of them. What must hold:
//
//   - Whatever happens to one mirror, the load says the same as before, as long as another
//     one is whole and not marked as stale.
//   - Each record and each page of the checkpoint may be lost on any mirror, as long as one
//     that is not stale has it.
//   - If a record is lost on all mirrors, and has a successor, the load refuses. It never skips
//     the record.
//   - A load may say something older only if every copy of every newer record is lost, and no
//     mark of a stale mirror shows that. This is the one loss that cannot be noticed.
//   - One copy of the newest superblock on each device is enough.
//   - A load refuses a device of another set, a device that was absent while the set was used,
//     and a clone beside the original.

// copyAt is a place of a record.
type copyAt struct {
	mirror int
	device uint8
	off    int64
}

// intactSet is a set of disks before it is damaged.
type intactSet struct {
	disks   []*disk
	dump    *metadata.DumpResult
	truth   *remap.Restored
	atom    int64
	slots   []int64                        // by mirror: bytes of a checkpoint slot
	lengths []int64                        // by mirror, in bytes
	records map[metadata.Position][]copyAt // on the chain, and the newest
	order   []metadata.Position            // of records, oldest first
	mirrors []metadata.MirrorDump
	whole   []bool // by mirror: has all, and is not stale
	stale   []metadata.Position
}

func devicesOf(disks []*disk) []metadata.Device {
	out := make([]metadata.Device, len(disks))
	for i, d := range disks {
		out[i] = offline{d: d}
	}
	return out
}

func forkDisks(disks []*disk) []*disk {
	out := make([]*disk, len(disks))
	for i, d := range disks {
		out[i] = d.fork()
	}
	return out
}

// probe does all of this, some of the time.
func (s *sim) probe() {
	was, ok := s.examine()
	if !ok {
		return // the start will say so
	}
	for range 1 + s.rng.IntN(4) {
		s.damage(was)
	}
	if len(s.disks) > 1 {
		s.wrongDevices()
	}
	if s.past == nil || s.chance(1, 3) {
		s.past, s.pastOf = forkDisks(s.disks), s.starts
	}
}

// restore loads a set and rebuilds its table.
func (s *sim) restore(devs []metadata.Device) (*remap.Restored, *metadata.Image, error) {
	img, err := metadata.Load(s.opts.Bug.loads(s, devs))
	if err != nil {
		return nil, nil, err
	}
	r, err := remap.Restore(img.Layout(), img.Replay)
	return r, img, err
}

// examine notes what is stored where, before anything is damaged.
func (s *sim) examine() (*intactSet, bool) {
	disks := forkDisks(s.disks)
	if s.cfg.meta == metaFlaky {
		// A fault that comes and goes could be there when the load is judged and not when it is
		// examined.
		m := s.mirrors()[s.lyingMirror]
		disks[0].spoil(m.Start, m.Length, nil)
	}
	devs := devicesOf(disks)
	truth, _, err := s.restore(devs)
	if err != nil {
		return nil, false
	}
	dump, err := metadata.Dump(devs)
	if err != nil || dump.Error != "" {
		return nil, false
	}
	newest := newestSuperblock(dump)
	was := &intactSet{disks: disks, dump: dump, truth: truth, atom: int64(newest.AtomSize),
		mirrors: dump.Mirrors, records: map[metadata.Position][]copyAt{}}
	for i, m := range dump.Mirrors {
		r := newest.Regions[slices.IndexFunc(newest.Regions, func(r metadata.Region) bool {
			return r.Kind == metadata.RegionMirror && r.Device == m.Device && r.Start == m.Start
		})]
		was.slots = append(was.slots, newest.MirrorSlot(&r))
		was.lengths = append(was.lengths, r.Length)
		for _, r := range m.Records {
			if !r.Used && r.Position != dump.Position {
				continue
			}
			if was.records[r.Position] == nil {
				was.order = append(was.order, r.Position)
			}
			was.records[r.Position] = append(was.records[r.Position],
				copyAt{i, m.Device, m.Start + 2*was.slots[i] + int64(r.Slot)*was.atom})
		}
	}
	slices.SortFunc(was.order, func(a, b metadata.Position) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	for i, m := range dump.Mirrors {
		whole := !m.Stale && slices.ContainsFunc(m.Checkpoints,
			func(c metadata.CheckpointDump) bool { return c.Used && c.BadPages == 0 })
		for _, copies := range was.records {
			whole = whole && slices.ContainsFunc(copies,
				func(c copyAt) bool { return c.mirror == i })
		}
		was.whole = append(was.whole, whole)
	}
	for _, r := range newest.Regions {
		if r.Stale {
			was.stale = append(was.stale, r.StaleFrom)
		}
	}
	return was, true
}

// newestSuperblock returns the newest one of the backing.
func newestSuperblock(dump *metadata.DumpResult) *metadata.Superblock {
	newest := &metadata.Superblock{}
	for _, c := range dump.Superblocks {
		if c.Superblock != nil && c.Device == 0 && c.Superblock.Generation > newest.Generation {
			newest = c.Superblock
		}
	}
	return newest
}

// tip returns the newest record.
func (was *intactSet) tip() metadata.Position { return was.dump.Position }

// spoilPage destroys a page of the metadata: it cannot be read, or its content is
// not what was written.
func (s *sim) spoilPage(d *disk, off int64) {
	var b [pageSize]byte
	d.load(off, b[:])
	switch s.rng.IntN(4) {
	case 0:
		d.spoil(off+sectorSize*s.rng.Int64N(pageSectors), sectorSize,
			&fault{read: true, errno: int32(syscall.ENODATA), left: -1})
		return
	case 1: // some bits flip, in the header, which always counts
		was := b
		for range 1 + s.rng.IntN(3) {
			b[s.rng.IntN(100)] ^= 1 << s.rng.IntN(8)
		}
		b[s.rng.IntN(8)] ^= 0x80
		if b == was {
			b[0] ^= 1
		}
	case 2:
		clear(b[:])
	case 3: // a torn write of something else
		at := sectorSize * s.rng.IntN(pageSectors-1)
		clear(b[at:])
		b[0] = 0xff // no magic begins like this; what is torn twice must not be whole again
	}
	d.store(off, b[:], pageSize, true)
}

// damage is what is done to copies of the disks, and what a load must then say.
type damage struct {
	s       *sim
	was     *intactSet
	disks   []*disk
	spoiled map[copyAt]bool
	what    string
	// The load must say the same as before, or must refuse.
	mustLoad, mustRefuse bool
}

// damage does one kind of damage to copies of the disks and judges what a load then says.
func (s *sim) damage(was *intactSet) {
	d := &damage{s: s, was: was, disks: forkDisks(was.disks), spoiled: map[copyAt]bool{}}
	kind := s.rng.IntN(7)
	if len(was.stale) > 0 && s.chance(1, 2) {
		kind = 7
	}
	behind := slices.Index(was.whole, false)
	if behind >= 0 && !was.mirrors[behind].Stale && s.chance(1, 2) {
		kind = 8
	}
	switch kind {
	case 0, 1:
		i := s.rng.IntN(len(was.mirrors))
		d.what = fmt.Sprintf("mirror %d", i)
		d.mustLoad = s.others(was, i)
		s.damageMirror(was, d.disks, i, d.spoiled)
	case 2:
		d.differently()
	case 3:
		d.alike()
	case 4:
		d.newest()
	case 5:
		d.what, d.mustLoad = "all superblocks but one of each device", true
		s.loseSuperblocks(was, d.disks)
	case 7: // what is left is stale
		d.what, d.mustRefuse = "every mirror but a stale one", true
		d.damageWholeMirror(func(i int) bool { return !was.mirrors[i].Stale })
	case 8: // what is left lacks something, and is not marked
		d.what = fmt.Sprintf("every mirror but %d", behind)
		d.damageWholeMirror(func(i int) bool { return i != behind })
	case 6: // anything
		d.what = "all mirrors"
		for i := range was.mirrors {
			s.damageMirror(was, d.disks, i, d.spoiled)
		}
	}
	if d.what == "" {
		return // there is too little for this kind of damage
	}
	s.stats.Damaged++
	s.judge(was, d.disks, d.spoiled, d.what, d.mustLoad, d.mustRefuse)
}

// lose spoils one copy of a record.
func (d *damage) lose(c copyAt) {
	d.spoiled[c] = true
	d.s.spoilPage(d.disks[c.device], c.off)
}

// damageWholeMirror spoils all of some mirrors.
func (d *damage) damageWholeMirror(which func(mirror int) bool) {
	for i := range d.was.mirrors {
		if which(i) {
			d.s.damageWholeMirror(d.was, d.disks, i, d.spoiled, false)
		}
	}
}

// differently damages mirrors in different ways.
func (d *damage) differently() {
	s, was := d.s, d.was
	d.what, d.mustLoad = "each record on all mirrors but one", true
	for _, pos := range was.order {
		keep := slices.DeleteFunc(slices.Clone(was.records[pos]),
			func(c copyAt) bool { return was.mirrors[c.mirror].Stale })
		if len(keep) == 0 {
			d.mustLoad = false
			continue
		}
		kept := pick(s.rng, keep)
		for _, c := range was.records[pos] {
			if c != kept && s.chance(3, 4) {
				d.lose(c)
			}
		}
	}
	s.losePages(was, d.disks)
}

// alike damages all mirrors in the same way.
func (d *damage) alike() {
	was := d.was
	if len(was.order) < 2 {
		return
	}
	d.what, d.mustRefuse = "one record, with a successor, on all mirrors", true
	for _, c := range was.records[was.order[d.s.rng.IntN(len(was.order)-1)]] {
		d.lose(c)
	}
}

// newest spoils the newest records of a mirror, or of all.
func (d *damage) newest() {
	s, was := d.s, d.was
	if len(was.order) == 0 {
		return
	}
	d.what = "the newest records"
	from := s.rng.IntN(len(was.order))
	only := -1
	if s.chance(1, 2) {
		only = s.rng.IntN(len(was.mirrors))
		d.mustLoad = s.others(was, only)
	}
	for _, pos := range was.order[from:] {
		for _, c := range was.records[pos] {
			if only < 0 || c.mirror == only {
				d.lose(c)
			}
		}
	}
}

// others reports whether a mirror but i is whole.
func (s *sim) others(was *intactSet, i int) bool {
	for j, w := range was.whole {
		if w && j != i {
			return true
		}
	}
	return false
}

// damageMirror damages a mirror in a few places, or everywhere.
func (s *sim) damageMirror(was *intactSet, disks []*disk, i int, spoiled map[copyAt]bool) {
	m := was.mirrors[i]
	length, size := was.lengths[i], was.slots[i]
	var at []int64
	switch s.rng.IntN(4) {
	case 0:
		s.damageWholeMirror(was, disks, i, spoiled, s.chance(1, 3))
		return
	case 1: // the log
		for off := 2 * size; off < length; off += pageSize {
			at = append(at, m.Start+off)
		}
	case 2: // what counts
		for _, pos := range was.order {
			for _, c := range was.records[pos] {
				if c.mirror == i && s.chance(1, 4) {
					at = append(at, c.off)
				}
			}
		}
		for slot := range int64(2) {
			at = append(at, m.Start+slot*size+was.atom*s.rng.Int64N(2))
		}
	case 3:
		for range 1 + s.rng.IntN(100) {
			at = append(at, m.Start+pageSize*s.rng.Int64N(length/pageSize))
		}
	}
	s.damagePages(was, disks, i, at, spoiled, s.chance(1, 3))
}

// damageWholeMirror damages all of a mirror.
func (s *sim) damageWholeMirror(was *intactSet, disks []*disk, i int, spoiled map[copyAt]bool,
	swap bool) {
	m := was.mirrors[i]
	var at []int64
	for off := int64(0); off < was.lengths[i]; off += pageSize {
		at = append(at, m.Start+off)
	}
	s.damagePages(was, disks, i, at, spoiled, swap)
}

// damagePages damages pages of a mirror. With swap it replaces them by others of the mirror, as
// lost and misdirected writes do.
func (s *sim) damagePages(was *intactSet, disks []*disk, i int, at []int64, spoiled map[copyAt]bool,
	swap bool) {
	d := disks[was.mirrors[i].Device]
	for _, off := range at {
		if swap {
			var b [pageSize]byte
			d.load(pick(s.rng, at), b[:])
			d.store(off, b[:], pageSize, true)
		} else {
			s.spoilPage(d, off)
		}
	}
	for _, copies := range was.records {
		for _, c := range copies {
			// An atom is always read as a whole.
			if c.mirror == i && slices.ContainsFunc(at,
				func(off int64) bool { return off >= c.off && off < c.off+was.atom }) {
				spoiled[c] = true
			}
		}
	}
}

// losePages destroys pages of the checkpoint, each on one mirror at most.
func (s *sim) losePages(was *intactSet, disks []*disk) {
	type have struct {
		m    metadata.MirrorDump
		size int64 // of a slot
		slot int
	}
	var with []have
	pages := uint32(0)
	for i, m := range was.mirrors {
		for _, c := range m.Checkpoints {
			if c.Used && c.BadPages == 0 {
				with = append(with, have{m, was.slots[i], c.Slot})
				pages = c.Pages
			}
		}
	}
	if len(with) < 2 {
		return
	}
	for page := range pages {
		h := pick(s.rng, with)
		s.spoilPage(disks[h.m.Device],
			h.m.Start+int64(h.slot)*h.size+was.atom+int64(page)*pageSize)
	}
}

// loseSuperblocks leaves one copy of the newest superblock on each device.
func (s *sim) loseSuperblocks(was *intactSet, disks []*disk) {
	for i, d := range disks {
		var best uint64
		var newest, all []int64
		for _, c := range was.dump.Superblocks {
			if c.Device != i || c.Superblock == nil {
				continue
			}
			all = append(all, c.Offset)
			if g := c.Superblock.Generation; g > best {
				best, newest = g, nil
			}
			if c.Superblock.Generation == best {
				newest = append(newest, c.Offset)
			}
		}
		if len(newest) == 0 {
			continue
		}
		keep := pick(s.rng, newest)
		for _, off := range all {
			if off != keep {
				s.spoilPage(d, off)
			}
		}
	}
}

// judge loads damaged disks. It makes sure that the load says the same as before, or refuses, or
// is older for an accepted reason.
func (s *sim) judge(was *intactSet, disks []*disk, spoiled map[copyAt]bool, what string, mustLoad,
	mustRefuse bool) {
	r, img, err := s.restore(devicesOf(disks))
	switch {
	case err != nil:
		s.judgeRefusal(err, what, mustLoad)
		return
	case mustRefuse:
		s.failf("damaged: %s. The load goes on", what)
	}
	diff := differ(was.truth, r)
	if diff == "" {
		s.stats.Survived++
		return
	}
	at := img.Position()
	if mustLoad || !at.Less(was.tip()) {
		s.failf("damaged: %s. The load is silently wrong: %s", what, diff)
	}
	for _, pos := range was.order {
		for _, c := range was.records[pos] {
			if at.Less(pos) && !spoiled[c] && !was.mirrors[c.mirror].Stale {
				s.failf("damaged: %s. The load stops at %v, and record %v is there: %s", what, at,
					pos, diff)
			}
		}
	}
	for _, from := range was.stale {
		if at.Less(from) {
			s.failf("damaged: %s. The load stops at %v, and a mirror is stale from %v on: %s", what,
				at, from, diff)
		}
	}
	// If some mirror lacked a record, and that mirror seemed good, the record cannot have been
	// called durable. If everything missing is of that kind, nothing is missing that was
	// acknowledged. If the writes that a mirror reports cannot be relied on, it may have had the
	// record.
	acknowledged := s.cfg.meta == metaReads || s.cfg.meta == metaFlaky || s.cfg.meta == metaLies ||
		s.cfg.meta == metaFlips
	for _, pos := range was.order {
		everywhere := at.Less(pos)
		for i, m := range was.mirrors {
			everywhere = everywhere && (m.Stale || slices.ContainsFunc(was.records[pos],
				func(c copyAt) bool { return c.mirror == i }))
		}
		acknowledged = acknowledged || everywhere
	}
	if !acknowledged {
		s.tracef("damaged: %s. The load stops at %v, before %v", what, at, was.tip())
		own := s.disks
		s.disks = disks
		s.inspect(r)
		s.disks = own
	}
	s.stats.Older++
}

// judgeRefusal makes sure that a load may refuse, and that it says why in known words.
func (s *sim) judgeRefusal(err error, what string, mustLoad bool) {
	s.stats.Refused++
	if mustLoad {
		s.failf("damaged: %s. The load refuses, and all of it is there: %v", what, err)
	}
	for _, known := range []error{metadata.ErrDamaged, metadata.ErrNotFound, metadata.ErrStale,
		metadata.ErrForeign, metadata.ErrUnsupported} {
		if errors.Is(err, known) {
			return
		}
	}
	s.failf("damaged: %s. The load says: %v", what, err)
}

// looksCut reports whether the spare device looks, beside the past backing, as if the last start
// had been cut after it raised the epoch there and before it did so on the backing. Then nothing
// can tell an old copy of the backing from a backing that the start did not reach, and that one
// must load. Everything that a server writes to the metadata of the spare device after the raise
// shows the difference: a record or a checkpoint of the new epoch, or a superblock whose PrevEpoch
// is the new epoch. A server writes such a superblock at once if the device's mirror is stale and
// gets no records (metadata's TestStaleSpareMirror). So only a start that could not write that,
// because a disk was away or the power was cut, looks like this. RELIABILITY.md says so under what
// is weak.
func (s *sim) looksCut() bool {
	was, err := metadata.Dump(devicesOf(s.past))
	now, err2 := metadata.Dump(devicesOf(s.disks))
	if err != nil || err2 != nil {
		return false
	}
	epoch := newestSuperblock(was).Epoch
	raised := false
	for _, c := range now.Superblocks {
		if sb := c.Superblock; sb != nil && c.Device != 0 && sb.Epoch > epoch {
			if raised = true; sb.PrevEpoch > epoch {
				return false
			}
		}
	}
	for _, m := range now.Mirrors {
		if m.Device == 0 {
			continue
		}
		if slices.ContainsFunc(m.Records,
			func(r metadata.RecordDump) bool { return r.Position.Epoch > epoch }) ||
			slices.ContainsFunc(m.Checkpoints,
				func(c metadata.CheckpointDump) bool { return c.Epoch > epoch }) {
			return false
		}
	}
	return raised
}

// wrongDevices exchanges the spare device, or the backing, and makes sure that a load
// refuses.
func (s *sim) wrongDevices() {
	now := devicesOf(s.disks)
	refuse := func(what string, want error, devs ...metadata.Device) {
		s.stats.WrongDevices++
		s.rng.Shuffle(len(devs), func(i, j int) { devs[i], devs[j] = devs[j], devs[i] })
		_, _, err := s.restore(devs)
		if err == nil || want != nil && !errors.Is(err, want) {
			s.failf("%s: the load should say %v, and says: %v", what, want, err)
		}
	}
	refuse("the spare device is missing", metadata.ErrNotFound, now[0])
	refuse("the backing is missing", metadata.ErrNotFound, now[1])
	dead := forkDisks(s.disks)
	dead[1].missing = int32(pick(s.rng, vanishErrnos))
	refuse("the spare device is dead", nil, devicesOf(dead)...) // with the device's own error
	refuse("a clone of the spare device beside it", metadata.ErrForeign, now[0], now[1],
		offline{d: s.disks[1].fork()})
	if s.past != nil && s.starts > s.pastOf {
		past := devicesOf(s.past)
		refuse("a spare device that was absent since an earlier start", metadata.ErrStale, now[0],
			past[1])
		if !s.looksCut() {
			refuse("a backing that was absent since an earlier start", metadata.ErrStale, past[0],
				now[1])
		}
	}
	other := s.cfg.plan
	other.UUID[0] ^= 0xff
	plan, err := metadata.Plan(other)
	if err != nil {
		s.failf("plan: %v", err)
	}
	foreign := []*disk{newDisk(0, s.disks[0].size), newDisk(1, s.disks[1].size)}
	if err := metadata.Create(devicesOf(foreign), plan, nil); err != nil {
		s.failf("create: %v", err)
	}
	refuse("a spare device of another set", metadata.ErrForeign, now[0], offline{d: foreign[1]})
}
