package coordinator

import (
	"errors"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file is the scrub: it reads all blocks, in order and in the background, in search of what no
// longer reads. It decides what is read when, and where a pass goes on after a restart. The reads
// themselves are internal requests of an engine (remap/internal_request.go), so what does not read
// is tried again and then noted as pending, by the rules of a user's read.
//
// Reads go out in bursts: a few in a row at once. A burst is followed by a pause, which keeps to
// the rate and, as long as users have requests, leaves most of the time of the disk to them. The
// position moves when all of a burst has ended. So everything below it was read in this pass, and
// it may be made durable at any time.
//
// Blocks that are pending or lost are not read: it is known that they do not read. Blocks that were
// read only after a try had failed are mended (scrub_mend.go). After all blocks come the spare
// units that are free: one that does not read is not given to a heal while there are others.

const (
	// ScrubTags is how many reads of the scrub may be under way at once.
	ScrubTags = 4
	// ScrubRate is how much a scrub reads at most, in bytes a second, unless it is told.
	ScrubRate = 50 << 20
	// scrubLeast is how much it reads at least, also while users have requests, in bytes a second,
	// as long as the disk is fast enough.
	scrubLeast = 1 << 20
	// scrubShare is how much of a disk's time it takes while users have requests: one part in that
	// many. A burst costs a user more than the time of the disk: the threads of the server are
	// woken for it, and copying what is read takes time of a CPU. One user who waits for each
	// read notices most of that. With a fiftieth it cost him 5 % where the disk is memory.
	scrubShare = 100
	// scrubQuiet is how long no request of a user may have ended before the device counts as idle.
	scrubQuiet = int64(time.Second)
	// scrubLook is how often a scrub that waits looks whether it may go on.
	scrubLook = int64(200 * time.Millisecond)
	// scrubSave is how often the position is made durable.
	scrubSave = int64(time.Minute)
	// scrubRetry and scrubRetryMost are how long it waits after an error that is not the medium's.
	scrubRetry     = int64(time.Second)
	scrubRetryMost = int64(time.Minute)
	// scrubSleep is the longest time between two looks at the clock that tells days.
	scrubSleep = int64(time.Minute)
	// scrubSpeed is over how much time the speed is measured.
	scrubSpeed = int64(10 * time.Second)
)

// Errors of the scrub's verbs.
var (
	ErrScrubRuns    = errors.New("a scrub is under way already")
	ErrScrubNone    = errors.New("no scrub is under way")
	ErrScrubPaused  = errors.New("the scrub is paused")
	ErrScrubRunning = errors.New("the scrub is not paused")
)

// ScrubConfig is what a scrub needs to know of its device.
type ScrubConfig struct {
	MaxBlocks  uint32 // of one read; 0: there is no scrub
	Rotational bool   // one long read costs less than several short ones
	// Elsewhere is that of its retests; see Retest.
	Elsewhere int
}

// ScrubRead is a read that the scrub asks for: an internal request with the cause CauseScrub.
type ScrubRead struct {
	Tag   int // below ScrubTags
	Block uint64
	Count uint32
}

// ScrubResult is how a ScrubRead ended; see remap.InternalResult. The slices are the Coordinator's
// only during the call.
type ScrubResult struct {
	Tag      int
	Failed   uint32           // blocks
	Spares   []remap.BadSpare // that failed
	Weak     []remap.Run      // that were read on a retry
	Ended    int32
	NotNoted bool
	// How long its slowest operation took, and the blocks that it was about.
	Slowest   time.Duration
	SlowBlock uint64
	SlowCount uint32
}

// ScrubOptions are what an operator may choose.
type ScrubOptions struct {
	Rate     uint64        // bytes a second; 0: ScrubRate
	Idle     bool          // read only while no user has requests
	Interval time.Duration // from the start of one pass to that of the next; 0: one pass
	// RelocateSlow: blocks that are slow to read are moved to the spare region.
	RelocateSlow bool
	NoRetest     bool // do not test after a pass whether homes of remapped blocks are well again
}

// ScrubStatus is what status shows.
type ScrubStatus struct {
	metadata.Scrub
	Total uint64 // blocks
	Speed uint64 // bytes a second, over the last moments; 0: nothing is being read
	// Waits is why nothing is read although the scrub runs; empty otherwise.
	Waits string
	// BadSpares is how many free spare units did not read, in this pass or the last one of this
	// server.
	BadSpares uint32
	// SlowSpares is how many were slow to read.
	SlowSpares uint32
	// Mending: blocks that were read on a retry are being moved to the spare region, and home.
	Mending bool
	Retest  ScrubRetest
}

// scrub is the scrub of one device.
type scrub struct {
	cfg    ScrubConfig
	now    metadata.Scrub
	retest scrubRetest
	held   bool  // no further read begins
	due    int64 // when the next step is wanted; 0: never

	reads    [ScrubTags]scrubRead // of the burst
	underWay int
	void     bool   // the burst belongs to a pass that was given up
	began    int64  // the burst
	took     int64  // it, without what was mended after it
	end      uint64 // where the burst ends, if all goes well
	bytes    uint64 // that the burst reads
	retry    int64  // the last wait after an error
	waits    string
	mend     mend
	spares   spareReads
	slow     slow
	meta     metaReads

	requests uint64 // of users, as counted last
	usersAt  int64  // when one last ended
	saved    metadata.Scrub
	savedAt  int64

	speed, speedBytes uint64 // bytes a second, and what is being counted
	speedFrom         int64
}

type scrubRead struct {
	busy  bool
	block uint64
	count uint32
	ended int32 // why not all of it was tried
}

// initScrub goes on where the last server was.
func (c *Coordinator) initScrub(cfg ScrubConfig, now metadata.Scrub) {
	s := &c.scrub
	s.cfg, s.now, s.saved = cfg, now, now
	s.slow.limit = c.slowFloor()
	if s.now.Position > c.blocks() {
		s.now.Position = 0
	}
	if cfg.MaxBlocks > 0 && (s.now.State == metadata.ScrubRunning || s.now.Interval > 0) {
		s.due = c.drv.Now()
	}
}

func (c *Coordinator) blocks() uint64 { return c.shared.Geometry().Blocks }

// ScrubDue is when TickScrub must be called, on the clock of Driver.Now; 0: it need not be.
func (c *Coordinator) ScrubDue() int64 {
	if c.scrub.held {
		return 0
	}
	return c.scrub.due
}

// HoldScrub keeps the scrub from beginning further reads, because the queues end, and makes its
// position durable.
func (c *Coordinator) HoldScrub() {
	c.scrub.held = true
	c.saveScrub()
	c.pump()
}

// Scrub returns the state of the scrub.
func (c *Coordinator) Scrub() ScrubStatus {
	s := &c.scrub
	st := ScrubStatus{Scrub: s.now, Total: c.blocks(), BadSpares: s.spares.bad,
		SlowSpares: s.spares.slow,
		Mending:    s.mend.step != mendNone,
		Retest:     c.scrubRetestState()}
	if s.now.State == metadata.ScrubRunning {
		st.Waits = s.waits
		if c.drv.Now()-s.speedFrom < 2*scrubSpeed {
			st.Speed = s.speed
		}
	}
	return st
}

// StartScrub begins a pass. Errors: ErrScrubRuns, ErrScrubPaused.
func (c *Coordinator) StartScrub(o ScrubOptions) error {
	s := &c.scrub
	switch s.now.State {
	case metadata.ScrubRunning:
		return ErrScrubRuns
	case metadata.ScrubPaused:
		return ErrScrubPaused
	}
	if o.Rate == 0 {
		o.Rate = ScrubRate
	}
	s.now = metadata.Scrub{Finished: s.now.Finished, Idle: o.Idle, RelocateSlow: o.RelocateSlow,
		NoRetest: o.NoRetest,
		Rate:     uint32(min(max(o.Rate>>10, 1), 1<<32-1)),
		Interval: uint32(o.Interval / time.Second)}
	c.beginPass()
	return nil
}

// beginPass begins a pass at the first block.
func (c *Coordinator) beginPass() {
	s := &c.scrub
	s.now.State, s.now.Position, s.now.Started = metadata.ScrubRunning, 0, c.drv.WallClock()
	s.now.Unreadable, s.now.Weak, s.now.Slow, s.now.Repaired, s.now.Relocated = 0, 0, 0, 0, 0
	s.due, s.retry, s.waits, s.spares.next, s.spares.bad = c.drv.Now(), 0, "", 0, 0
	s.speed, s.speedBytes, s.speedFrom = 0, 0, s.due
	s.spares.slow = 0
	s.slow.beginPass()
	s.meta.begun = false
	c.recordScrub(metadata.EventBegun)
	c.saveScrub()
	c.pump()
}

// PauseScrub stops after the reads that are under way. Errors: ErrScrubNone, ErrScrubPaused.
func (c *Coordinator) PauseScrub() error {
	s := &c.scrub
	switch s.now.State {
	case metadata.ScrubIdle:
		return ErrScrubNone
	case metadata.ScrubPaused:
		return ErrScrubPaused
	}
	s.now.State, s.due = metadata.ScrubPaused, 0
	c.recordScrub(metadata.EventPaused)
	c.saveScrub()
	c.pump()
	return nil
}

// ResumeScrub goes on after PauseScrub. Errors: ErrScrubNone, ErrScrubRunning.
func (c *Coordinator) ResumeScrub() error {
	s := &c.scrub
	switch s.now.State {
	case metadata.ScrubIdle:
		return ErrScrubNone
	case metadata.ScrubRunning:
		return ErrScrubRunning
	}
	s.now.State, s.due = metadata.ScrubRunning, c.drv.Now()
	c.recordScrub(metadata.EventGoesOn)
	s.speed, s.speedBytes, s.speedFrom = 0, 0, s.due
	c.saveScrub()
	c.pump()
	return nil
}

// StopScrub gives the pass up, and those that would have followed. Errors: ErrScrubNone.
func (c *Coordinator) StopScrub() error {
	s := &c.scrub
	if s.now.State == metadata.ScrubIdle && s.now.Interval == 0 && !s.retest.wanted {
		return ErrScrubNone
	}
	c.endScrubRetest()
	if s.now.State != metadata.ScrubIdle {
		c.recordScrub(metadata.EventEnded)
	}
	s.now.State, s.now.Interval, s.now.Position, s.due = metadata.ScrubIdle, 0, 0, 0
	s.void = c.scrubBusy()
	c.saveScrub()
	c.pump()
	return nil
}

// saveScrub makes the state durable, by a record of its own.
func (c *Coordinator) saveScrub() {
	s := &c.scrub
	c.com.SetScrub(s.now)
	if s.now == s.saved {
		return
	}
	s.saved, s.savedAt = s.now, c.drv.Now()
	c.arbiter.Record()
}

// TickScrub takes the next step of the scrub, if it is due.
func (c *Coordinator) TickScrub() {
	s := &c.scrub
	now := c.drv.Now()
	if s.held || s.due == 0 || s.due > now || c.scrubBusy() {
		return
	}
	s.due, s.waits = 0, ""
	users := c.usersActive(now)
	switch {
	case s.now.State == metadata.ScrubIdle:
		c.awaitPass(now)
	case s.now.State != metadata.ScrubRunning:
	case c.shared.Tripped():
		s.due, s.waits = now+scrubRetry, "the breaker is open"
	case s.now.Idle && users:
		s.due, s.waits = now+scrubLook, "the device is in use"
	default:
		c.burst(now, users)
	}
}

// scrubBusy reports whether something of the scrub is under way.
func (c *Coordinator) scrubBusy() bool {
	s := &c.scrub
	return s.underWay > 0 || s.mend.step != mendNone || s.spares.underWay ||
		s.slow.moving.underWay || s.meta.underWay
}

// awaitPass begins the next pass once its time has come.
func (c *Coordinator) awaitPass(now int64) {
	s := &c.scrub
	if s.now.Interval == 0 {
		return
	}
	if wall, next := c.drv.WallClock(), uint64(s.now.Started)+uint64(s.now.Interval); uint64(
		wall) < next && wall >= s.now.Started {
		s.due = now + min(scrubSleep, int64(next-uint64(wall))*int64(time.Second))
		return
	}
	c.beginPass()
}

// usersActive reports whether a request of a user has ended lately.
func (c *Coordinator) usersActive(now int64) bool {
	s := &c.scrub
	n := c.shared.Counters()
	if sum := n.Reads + n.Writes + n.Flushes + n.Discards; sum != s.requests {
		s.requests, s.usersAt = sum, now
	}
	return s.usersAt != 0 && now-s.usersAt < scrubQuiet
}

// burst begins the next reads, or ends the pass.
func (c *Coordinator) burst(now int64, users bool) {
	s := &c.scrub
	if c.lookAgain(now) || len(s.slow.suspects) == slowSuspects && c.awaitLooks() {
		return
	}
	most := ScrubTags
	if users && !s.cfg.Rotational {
		most = 1 // one more read costs the disk as much as the first
	}
	at := s.now.Position
	s.began, s.bytes = now, 0
	for tag := 0; tag < most; tag++ {
		block, count := c.nextGood(at)
		at = block + uint64(count)
		if count == 0 {
			break
		}
		s.reads[tag] = scrubRead{busy: true, block: block, count: count}
		s.underWay++
		s.bytes += uint64(count) * uint64(c.shared.Geometry().BlockSize)
		s.end = at
		c.drv.ReadForScrub(ScrubRead{Tag: tag, Block: block, Count: count})
	}
	if s.underWay == 0 { // all blocks were read: free spare units come next
		s.end, s.now.Position = c.blocks(), c.blocks()
		c.com.SetScrub(s.now) // blocks at the end may be left out, because they are known now
		if !c.startMend() && !c.awaitLooks() {
			c.readSpares()
		}
	}
}

// nextGood returns the next blocks from one on that are to be read, at most one read's; count 0:
// there are none up to the device's end.
func (c *Coordinator) nextGood(at uint64) (block uint64, count uint32) {
	m, end := c.shared.Map(), c.blocks()
	most := uint64(c.scrub.cfg.MaxBlocks)
	for at < end {
		to := min(end, at/most*most+most) // the same places in each pass
		for b := at; ; {
			run, ok := m.Next(b, to)
			if !ok {
				break
			}
			if run.Kind&(remap.KindPending|remap.KindLost) == 0 {
				b = run.Start + run.Count
				continue
			}
			c.leftBehind(run)
			if to = run.Start; to == at { // it begins with what is known
				at = run.Start + run.Count
			}
			break
		}
		if to > at {
			return at, uint32(to - at)
		}
	}
	return end, 0
}

// spareReads are the reads of free spare units, after all blocks.
type spareReads struct {
	underWay bool
	ended    bool // the read under way has ended, with res
	res      remap.SpareRead
	next     uint32
	bad      uint32 // units that did not read in this pass
	slow     uint32 // units that were slow to read
}

// readSpares begins to read the next free spare units.
func (c *Coordinator) readSpares() {
	r := &c.scrub.spares
	r.underWay = true
	c.arbiter.ReadSpares(r.next, c.scrub.slow.limit,
		func(res remap.SpareRead) { r.ended, r.res = true, res })
	c.pump()
}

// stepSpares goes on once a read of free spare units has ended.
func (c *Coordinator) stepSpares() {
	s := &c.scrub
	r := &s.spares
	if !r.ended {
		return
	}
	r.underWay, r.ended = false, false
	now := c.drv.Now()
	s.took, s.bytes = now-s.began, uint64(r.res.Units)*metadata.UnitSize
	r.next, r.bad, r.slow = r.res.Next, r.bad+r.res.Bad, r.slow+r.res.Slow
	switch {
	case s.void:
		c.settleBurst()
	case r.res.Units == 0:
		if !c.relocateSlow() && !c.verifyMetadata() {
			c.endPass()
		}
	default:
		c.pace(now, r.res.Errno)
	}
}

// metaReads are the reads of the metadata, after all else.
type metaReads struct {
	begun, underWay, ended bool
}

// verifyMetadata begins to read the next part of the metadata, and reports whether there is one.
// The Committer writes again what reads badly (metadata/committer_verify.go).
func (c *Coordinator) verifyMetadata() bool {
	s := &c.scrub
	t, bytes, ok := c.com.Verify(!s.meta.begun)
	if !ok {
		return false
	}
	s.meta.begun, s.meta.underWay = true, true
	s.began, s.bytes = c.drv.Now(), uint64(bytes)
	c.tickets[t] = func(metadata.Outcome) { c.scrub.meta.ended = true }
	c.pump()
	return true
}

// stepVerify goes on once a read of the metadata has ended.
func (c *Coordinator) stepVerify() {
	s := &c.scrub
	if !s.meta.ended {
		return
	}
	s.meta.underWay, s.meta.ended = false, false
	now := c.drv.Now()
	if s.took = now - s.began; s.void {
		c.settleBurst()
	} else {
		c.pace(now, 0) // TickScrub comes back to what is left
	}
}

// endPass ends a pass that has read everything. A checkpoint reads back what it writes, and all
// copies of the superblock, and writes those again that are bad.
func (c *Coordinator) endPass() {
	s := &c.scrub
	since := s.now.Finished
	s.now.State, s.now.Position, s.now.Finished = metadata.ScrubIdle, 0, max(1, c.drv.WallClock())
	c.recordScrub(metadata.EventScrubbed)
	c.retestAfterPass(since)
	if s.now.Interval > 0 {
		s.due = c.drv.Now()
	}
	c.saveScrub()
	if t, err := c.com.Checkpoint(); err == nil { // an error: the Committer is not open
		c.tickets[t] = func(metadata.Outcome) {}
	}
	c.pump()
}

// ScrubDone takes how a ScrubRead ended. It must be called once for each, unless the queues have
// ended.
func (c *Coordinator) ScrubDone(r *ScrubResult) {
	s := &c.scrub
	read := &s.reads[r.Tag]
	read.busy, read.ended = false, r.Ended
	if r.NotNoted && !c.arbiter.Status().Table.Full && read.ended == 0 {
		read.ended = -int32(syscall.EIO) // as if it had not been tried
	}
	c.timed(r, read)
	if read.ended == 0 && !s.void {
		s.now.Unreadable += r.Failed
		for _, run := range r.Weak {
			s.now.Weak += uint32(run.Count)
			s.mend.weak(run)
		}
		s.mend.spares = append(s.mend.spares, r.Spares...)
	}
	if s.underWay--; s.underWay == 0 {
		s.took = c.drv.Now() - s.began
		if !c.startMend() {
			c.settleBurst()
		}
	}
}

// settleBurst moves the position, and decides when the next burst begins.
func (c *Coordinator) settleBurst() {
	s := &c.scrub
	now := c.drv.Now()
	if s.void {
		s.void, s.reads, s.slow.looking = false, [ScrubTags]scrubRead{}, false
		if s.now.State == metadata.ScrubRunning { // another pass has begun
			s.due = now
		}
		return
	}
	pos, failed := s.end, int32(0)
	for i := len(s.reads) - 1; i >= 0; i-- {
		if r := &s.reads[i]; r.ended != 0 {
			pos, failed = r.block, r.ended
		}
	}
	s.reads = [ScrubTags]scrubRead{}
	s.now.Position = max(pos, s.now.Position)
	c.pace(now, failed)
}

// pace decides when the next burst begins. failed is why this one has ended early.
func (c *Coordinator) pace(now int64, failed int32) {
	s := &c.scrub
	c.measureScrub(now)
	s.due = now + 1
	switch users := c.usersActive(now); {
	case failed != 0:
		s.retry = min(max(2*s.retry, scrubRetry), scrubRetryMost)
		s.due, s.waits = now+s.retry, syscall.Errno(-failed).Error()
	default:
		s.retry = 0
		s.due = max(s.due, s.began+c.perRate(uint64(s.now.Rate)<<10))
		if users {
			pause := min(s.took*(scrubShare-1), max(0, c.perRate(scrubLeast)-s.took))
			s.due = max(s.due, now+pause)
		}
	}
	c.com.SetScrub(s.now)
	if now-s.savedAt >= scrubSave || s.now.State == metadata.ScrubPaused {
		c.saveScrub()
		c.pump()
	}
	if s.now.State == metadata.ScrubPaused {
		s.due = 0
	}
}

// perRate is how long the burst takes at a rate, in bytes a second.
func (c *Coordinator) perRate(rate uint64) int64 {
	return int64(float64(c.scrub.bytes) / float64(max(rate, 1)) * float64(time.Second))
}

// measureScrub counts what was read.
func (c *Coordinator) measureScrub(now int64) {
	s := &c.scrub
	s.speedBytes += s.bytes
	if took := now - s.speedFrom; took >= scrubSpeed || s.speed == 0 && took >= scrubRetry {
		s.speed = uint64(float64(s.speedBytes) * float64(time.Second) / float64(took))
		s.speedBytes, s.speedFrom = 0, now
	}
}
