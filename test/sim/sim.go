package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// Options of a run.
type Options struct {
	// Trace, if not nil, gets each step in one line.
	Trace func(line string)
	// Bug plants a bug: the run is expected to fail, sooner or later.
	Bug Bug
	// Focus makes the run be about something.
	Focus Focus
	// Set makes the run smaller than its seed says, to repeat a failure that was
	// shrunk: see ParseSetting.
	Set Setting
}

// violation is a broken promise. It unwinds the run.
type violation string

// sim is one run: disks that outlive servers, the model of what they must
// hold, and at most one server at a time.
type sim struct {
	seed uint64
	cfg  config
	// rng decides what happens next. Each action of users, operators and the environment draws from
	// its own stream, so that leaving one out changes the others little.
	rng    *rand.Rand
	stream *rand.PCG
	opts   Options
	stats  Stats

	eventsDurable uint64 // number of the newest event that is known to be on a disk
	spareFaults   int    // that there were so far

	now   int64 // monotonic ns
	step  int64 // events so far
	disks []*disk
	plan  *metadata.Layout
	model *model
	spots []uint64        // blocks around which requests are made
	lost  map[uint64]bool // blocks that were lost from the beginning
	// marked are blocks that an import has marked, and no commit has moved home since.
	marked map[uint64]bool

	reqs   [][]*userReq // by queue and tag; nil: the tag is free
	active int
	nextID uint64
	// failures counts the flushes that failed. reported is how many of them flushes of the user
	// were answered with.
	failures, reported flushCount
	fills              []*userReq // blocks that are being filled, and committed

	srv     *server
	media   media
	ios     []*diskIO // under way
	pool    []event
	stalled uint32 // classes of events that are put off

	past       []*disk   // the disks before an earlier start
	pastOf     int       // number of starts before
	starts     int       // that ended well
	actions    []int     // what users, operators and the environment did, by number
	atWrite    func()    // called before each write takes effect
	writes     int       // the number of writes so far
	lateWrites []*diskIO // BugEarlyRecovery
	scripted   bool      // a scenario: nothing happens but what it says

	crumbles     uint64 // the unit whose spare unit goes bad
	lyingMirror  int    // metaLies: the mirror that lies
	metaLeft     int    // writes to the metadata until its fault begins or ends
	metaBad      bool   // metaAll: it has begun
	shortageEnds int64
	// the longest time that an operation so far took to fail, in ns; time stood still for all
	// others
	slowest     int64
	missingStep int64 // when the backing vanished
	awayStep    int64 // when a disk last vanished
	draining    bool

	scrubbing  scrubbing
	pass       [][2]uint64 // blocks that the background reader reads next
	readerHeld bool        // none of the reader's operations continues
	withheld   []event     // the reader's events that are held up
}

func newSim(seed uint64, opts Options) *sim {
	s := &sim{seed: seed, opts: opts, stream: rand.NewPCG(seed, 0x7562_6c6b), now: int64(time.Hour),
		nextID: firstWrite}
	s.rng = rand.New(s.stream)
	return s
}

// Run carries out the run of a seed and returns what it went through; the
// error says which promise was broken.
func Run(seed uint64, opts Options) (Stats, error) {
	s := newSim(seed, opts)
	err := s.guard(s.run)
	return s.stats, err
}

// guard calls f and returns the promise that it found broken.
func (s *sim) guard(f func()) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case violation:
			err = fmt.Errorf("seed %d, step %d: %s", s.seed, s.step, string(v))
		default:
			err = fmt.Errorf("seed %d, step %d: panic: %v\n%s", s.seed, s.step, v, debug.Stack())
		}
	}()
	f()
	return nil
}

// restream begins another stream of random numbers.
func (s *sim) restream(number int) {
	s.stream.Seed(s.seed^uint64(s.opts.Set.values["order"])<<40, 0x7562_6c6b+uint64(number)<<32)
}

// act lets a user, an operator or the environment do something. The number names the action. act
// reports false if the run's setting leaves the action out.
func (s *sim) act(number int, f func()) bool {
	if !s.opts.Set.keeps(number) {
		return false
	}
	s.actions = append(s.actions, number)
	stream, rng := s.stream, s.rng
	s.stream = rand.NewPCG(s.seed^0x6163_7400, uint64(number))
	s.rng = rand.New(s.stream)
	f()
	s.stream, s.rng = stream, rng
	return true
}

func (s *sim) failf(format string, args ...any) {
	v := violation(fmt.Sprintf(format, args...))
	if s.tracing() {
		s.traceMetadata()
		s.tracef("FAILED: %s", v)
	}
	panic(v)
}

// tracef is for rare events; frequent ones ask s.tracing first.
func (s *sim) tracef(format string, args ...any) {
	if s.opts.Trace != nil {
		s.opts.Trace(fmt.Sprintf("%7d %11.6f  ", s.step, float64(s.now-int64(time.Hour))/1e9) +
			fmt.Sprintf(format, args...))
	}
}

// traceMetadata prints what lies in the logs, which explains most failures.
func (s *sim) traceMetadata() {
	r, err := metadata.Dump(s.devices())
	if err != nil {
		s.tracef("dump: %v", err)
		return
	}
	for _, m := range r.Mirrors {
		s.tracef("mirror at disk %d @%d, stale %v, %d slots cannot be read", m.Device, m.Start,
			m.Stale, m.Unreadable)
		for _, c := range m.Checkpoints {
			s.tracef("  checkpoint %+v", c)
		}
		for _, rec := range m.Records {
			s.tracef("  slot %d: %v after %v, %s, used %v: %+v", rec.Slot, rec.Position,
				rec.Previous, rec.Kind, rec.Used, rec.Entries)
		}
	}
}

func (s *sim) tracing() bool { return s.opts.Trace != nil }

func (s *sim) chance(n, of int) bool { return s.rng.IntN(of) < n }

// run is the life of one set of disks.
func (s *sim) run() {
	s.cfg = newConfig(s.rng)
	s.opts.Focus.apply(&s.cfg)
	s.opts.Set.apply(&s.cfg)
	s.tracef("seed %d: %s", s.seed, &s.cfg)
	s.restream(1)
	s.create()
	s.equip()
	s.restream(2)
	s.pickSpots()
	for i := range s.cfg.faults {
		s.act(i, s.spoil)
	}
	if s.cfg.sparesBad {
		s.spoilSpares()
	}
	s.spoilMetadata()
	for round := range s.cfg.rounds {
		s.tracef("round %d", round)
		s.restream(3 + round)
		if round > 0 {
			s.rearrange()
		}
		s.start()
		s.verify()
		s.work(round, s.cfg.steps)
		s.end(round == s.cfg.rounds-1)
	}
}

// equip makes what belongs to the disks: the model and the users.
func (s *sim) equip() {
	s.media = media{reads: map[place]bool{}, writes: map[place]bool{}, away: map[place]int64{},
		verified: map[place]bool{}, cached: map[place]bool{}, tests: map[place]*homeTest{}}
	s.model = newModel(s.plan.Blocks() * uint64(s.plan.BlockSize()) / sectorSize)
	s.users()
	for _, d := range s.disks {
		d.rates, d.trims, d.lossy, d.noFUA = s.cfg.rates, s.cfg.trims, s.cfg.lossy,
			s.cfg.noFUA[d.index]
	}
	s.lyingMirror = s.rng.IntN(len(s.mirrors()))
}

// users makes the queues' tags, all of them free.
func (s *sim) users() {
	s.reqs = make([][]*userReq, s.cfg.queues)
	for q := range s.reqs {
		s.reqs[q] = make([]*userReq, s.cfg.depth)
	}
}

// rearrange changes what may change between a stop, or a power cut, and the next start: the number
// of queues and their depth.
func (s *sim) rearrange() {
	if s.active > 0 || !s.cfg.rearrange || s.chance(1, 2) {
		return
	}
	s.cfg.queues, s.cfg.depth = 1+s.rng.IntN(s.cfg.maxQueues), 1+s.rng.IntN(5)
	s.tracef("%d queues of %d", s.cfg.queues, s.cfg.depth)
	s.users()
}

// event is something that may happen next.
type event struct {
	class uint8
	run   func()
}

// Classes of events, which can be put off one by one. Each queue has its own.
const (
	classIO       = 0  // operations of a queue
	classToArb    = 8  // messages from a queue
	classToEng    = 16 // messages to a queue
	classJournal  = 24
	classTransfer = 25
	classReader   = 26 // operations of the background reader
)

func (s *sim) later(class uint8, run func()) {
	if class == classReader && s.readerHeld {
		s.withheld = append(s.withheld, event{class, run})
		return
	}
	s.pool = append(s.pool, event{class, run})
}

// muchLater is like later, but after about n turns of others.
func (s *sim) muchLater(class uint8, n int, run func()) {
	s.later(class, func() {
		if s.chance(n-1, n) && len(s.pool) > 0 {
			s.muchLater(class, n, run)
		} else {
			run()
		}
	})
}

// nextEvent lets one of the possible next events happen. It reports false if there is none.
func (s *sim) nextEvent() bool {
	s.passTime()
	if len(s.pool) == 0 {
		return s.srv != nil && s.srv.wait()
	}
	i := s.rng.IntN(len(s.pool))
	for range 8 {
		if s.stalled>>s.pool[i].class&1 == 0 {
			break
		}
		i = s.rng.IntN(len(s.pool))
	}
	e := s.pool[i]
	last := len(s.pool) - 1
	s.pool[i] = s.pool[last]
	s.pool[last] = event{}
	s.pool = s.pool[:last]
	e.run()
	if s.srv != nil {
		s.srv.after()
	}
	return true
}

// passTime advances the clock, mostly by little. From time to time it changes which events are put
// off.
func (s *sim) passTime() {
	s.step++
	s.stats.Steps++
	switch n := s.rng.IntN(2000); {
	case n == 0:
		s.now += int64(3 * time.Second)
	case n < 10:
		s.now += int64(50 * time.Millisecond)
	default:
		s.now += 1 + s.rng.Int64N(int64(20*time.Microsecond))
	}
	if s.chance(1, 40) {
		s.stalled = s.rng.Uint32() & s.rng.Uint32()
		if s.chance(1, 3) {
			s.stalled = 0
		}
	}
	if s.shortageEnds != 0 && s.now > s.shortageEnds {
		s.shortage(false)
	}
}

// begin starts an operation on a disk. done is called with its result, unless
// the server dies first.
func (s *sim) begin(class uint8, io *diskIO, done func(res int32)) {
	if io.off < 0 || io.n < 0 || io.off+io.n > io.d.size || io.off%sectorSize != 0 ||
		io.n%sectorSize != 0 {
		s.failf("an operation past the end, or not aligned: %v", io)
	}
	io.seq = io.d.seq
	io.slot = len(s.ios)
	s.ios = append(s.ios, io)
	if s.tracing() {
		s.tracef("      begin %v", io)
	}
	s.later(class, func() { s.carry(class, io, done) })
}

// carry continues an operation by one step, and then delivers its result.
func (s *sim) carry(class uint8, io *diskIO, done func(res int32)) {
	if io.kind != ioRead && io.kind != ioFlush {
		s.writes++
		if s.atWrite != nil {
			s.atWrite()
		}
	}
	res := io.step(s.rng)
	if io.unflushed && io.req != nil {
		io.req.flushFailed = true
	}
	failed := io.unflushed
	s.dropped(io)
	// A flush of the user's that fails counts only when it is answered, because its answer tells
	// the user. Any other failed flush counts from now on.
	users := io.kind == ioFlush && io.req != nil && io.req.Op == remap.OpFlush
	if failed && !users {
		s.failures.done++
	}
	if users && res >= 0 && io.req.seen < 0 {
		io.req.seen = s.failures.done
	}
	if res == again {
		s.later(class, func() { s.carry(class, io, done) })
		return
	}
	// Everything else waits meanwhile, or ends at the same time.
	s.now += io.slow
	s.slowest = max(s.slowest, io.slow)
	s.srv.slow = s.srv.slow || io.slow > 0
	io.slow = 0
	if res < 0 && s.tracing() {
		s.tracef("      %v: %s", io, errnoName(res))
	}
	if io.kind == ioDiscard && res == 0 && io.req != nil {
		for i := range uint64(io.n) / uint64(s.plan.BlockSize()) {
			io.req.reached[io.block+i] = true
		}
	}
	finish := func() {
		last := len(s.ios) - 1
		s.ios[io.slot] = s.ios[last]
		s.ios[io.slot].slot = io.slot
		s.ios = s.ios[:last]
		if failed {
			s.failures.seen++
		}
		if failed && users {
			s.failures.done++
		}
		done(res)
	}
	if s.chance(1, 2) {
		finish()
	} else {
		io.done = io.n // a power cut has nothing left to change
		s.later(class, finish)
	}
}

// flushCount counts failed flushes: done are those that have failed, seen those whose result the
// server has got.
type flushCount struct{ done, seen int }

// dropped notes that a flush has failed, and what became of the disk's cache.
func (s *sim) dropped(io *diskIO) {
	if !io.unflushed {
		return
	}
	io.unflushed = false
	if io.d.lossy && io.d.missing == 0 {
		s.tracef("      disk %d drops its cache", io.d.index)
		s.stats.Dropped++
		s.model.dropped()
	}
}

// cutPower ends everything. What was under way takes effect in part.
func (s *sim) cutPower() { s.cut(surviveSome) }

func (s *sim) cut(how survival) {
	s.stats.Cuts++
	s.tracef("POWER CUT")
	for _, io := range s.ios {
		if how == surviveSome {
			io.some(s.rng)
		} else {
			io.survive(s.rng, how)
		}
	}
	for _, d := range s.disks {
		d.cut(s.rng, how)
	}
	s.model.cut()
	for _, tags := range s.reqs {
		clear(tags)
	}
	s.active = 0
	s.down()
}

// kill ends the server only. What the server has under way ends by itself, or never began. The
// disks keep their caches, and the kernel keeps the requests.
func (s *sim) kill() {
	s.stats.Kills++
	s.tracef("SIGKILL")
	s.die()
}

// die ends the server's process.
func (s *sim) die() {
	for _, io := range s.ios {
		if io.done == 0 && s.chance(1, 3) {
			continue
		}
		if s.opts.Bug.delaysWrite(s, io) {
			continue
		}
		for io.done < io.n && io.step(s.rng) == again {
		}
		s.dropped(io)
	}
	s.down()
}

func (s *sim) down() {
	s.ios, s.pool, s.withheld, s.readerHeld = s.ios[:0], s.pool[:0], s.withheld[:0], false
	if s.model != nil {
		s.endFills()
		s.model.reads = slices.DeleteFunc(s.model.reads,
			func(r *userReq) bool { return r.internal })
	}
	s.srv = nil
	s.shortage(false)
	for _, d := range s.disks {
		d.missing = 0
	}
}

func (s *sim) devices() []metadata.Device {
	out := make([]metadata.Device, len(s.disks))
	for i, d := range s.disks {
		out[i] = offline{d: d}
	}
	// Load accepts the devices in any order.
	s.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// home returns where an exported sector lives if it is not remapped.
func (s *sim) home(sector uint64) place {
	per := uint64(s.plan.BlockSize() / sectorSize)
	dev, off := s.plan.HomeOf(sector / per)
	return place{dev, off + int64(sector%per)*sectorSize}
}

func sortedSpots(spots []uint64) []uint64 {
	slices.Sort(spots)
	return slices.Compact(spots)
}
