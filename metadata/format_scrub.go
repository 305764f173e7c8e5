package metadata

// Scrub is how far the background read of all blocks has come, and what it was asked for. It is
// written along with records and checkpoints, so it may be older than the truth by some time.
type Scrub struct {
	State        ScrubState
	Idle         bool   // read only while nobody uses the device
	RelocateSlow bool   // move blocks that are slow to the spare region
	NoRetest     bool   // do not test after each pass whether homes are well again
	Position     uint64 // exported block: everything below it was read since Started
	Started      uint32 // seconds since 1970: when the pass began; 0: there was none
	Finished     uint32 // when the last whole pass ended; 0: none has
	Rate         uint32 // KiB a second at most
	Interval     uint32 // seconds from the start of one pass to that of the next; 0: one pass only
	// What the pass has found and done so far, in blocks.
	Unreadable, Weak, Slow, Repaired, Relocated uint32
}

// ScrubState says what the background read does; frozen with format version 4.
type ScrubState uint8

const (
	ScrubIdle    ScrubState = 0 // nothing, perhaps until the next pass is due
	ScrubRunning ScrubState = 1
	ScrubPaused  ScrubState = 2
)

// Offsets of a Scrub; frozen with format version 4. It lies at the end of a page of 4096 bytes: of
// a checkpoint's header, and of a record whose entries leave it the room.
const (
	scrubAt            = PageSize - scrubSize
	scrubSize          = 48
	scrubFormAt        = scrubAt // scrubForm, or 0: there is none
	scrubStateAt       = scrubAt + 1
	scrubFlagsAt       = scrubAt + 2
	scrubStartedAt     = scrubAt + 4
	scrubPositionAt    = scrubAt + 8
	scrubFinishedAt    = scrubAt + 16
	scrubRateAt        = scrubAt + 20
	scrubIntervalAt    = scrubAt + 24
	scrubCountsAt      = scrubAt + 28 // five
	scrubForm          = 1
	scrubFlagIdle      = 1
	scrubFlagRelocate  = 2
	scrubFlagNoRetest  = 4
	maxEntriesAndScrub = (scrubAt - recordHeader) / entrySize // 164
)

// counts are the five counters, in the order in which they are stored.
func (s *Scrub) counts() [5]*uint32 {
	return [5]*uint32{&s.Unreadable, &s.Weak, &s.Slow, &s.Repaired, &s.Relocated}
}

// putScrub writes a Scrub at the end of a page. If it is all zero, nobody has ever asked for one,
// and nothing is written.
func putScrub(b []byte, s *Scrub) {
	if *s == (Scrub{}) {
		return
	}
	b[scrubFormAt], b[scrubStateAt], b[scrubFlagsAt] = scrubForm, byte(s.State), 0
	if s.Idle {
		b[scrubFlagsAt] |= scrubFlagIdle
	}
	if s.RelocateSlow {
		b[scrubFlagsAt] |= scrubFlagRelocate
	}
	if s.NoRetest {
		b[scrubFlagsAt] |= scrubFlagNoRetest
	}
	le.PutUint32(b[scrubStartedAt:], s.Started)
	le.PutUint64(b[scrubPositionAt:], s.Position)
	le.PutUint32(b[scrubFinishedAt:], s.Finished)
	le.PutUint32(b[scrubRateAt:], s.Rate)
	le.PutUint32(b[scrubIntervalAt:], s.Interval)
	for i, n := range s.counts() {
		le.PutUint32(b[scrubCountsAt+4*i:], *n)
	}
}

// getScrub reads a Scrub from the end of a page. It reports false if there is none, or one that a
// later version wrote in another form.
func getScrub(b []byte) (s Scrub, ok bool) {
	if b[scrubFormAt] != scrubForm || b[scrubStateAt] > byte(ScrubPaused) {
		return Scrub{}, false
	}
	s = Scrub{
		State: ScrubState(b[scrubStateAt]), Idle: b[scrubFlagsAt]&scrubFlagIdle != 0,
		RelocateSlow: b[scrubFlagsAt]&scrubFlagRelocate != 0,
		NoRetest:     b[scrubFlagsAt]&scrubFlagNoRetest != 0,
		Started:      le.Uint32(b[scrubStartedAt:]), Position: le.Uint64(b[scrubPositionAt:]),
		Finished: le.Uint32(b[scrubFinishedAt:]), Rate: le.Uint32(b[scrubRateAt:]),
		Interval: le.Uint32(b[scrubIntervalAt:]),
	}
	for i, n := range s.counts() {
		*n = le.Uint32(b[scrubCountsAt+4*i:])
	}
	return s, true
}

// Scrub is what the newest of the records and the checkpoint says about the background read.
func (img *Image) Scrub() Scrub {
	for i := len(img.chain) - 1; i >= 0; i-- {
		if s := img.chain[i].scrub; s != (Scrub{}) {
			return s
		}
	}
	if img.checkpoint == nil {
		return Scrub{}
	}
	return img.checkpoint.scrub
}

// SetScrub sets what the next records and checkpoints say about the background read. It writes
// nothing: a Commit, also one without entries, makes it durable.
func (c *Committer) SetScrub(s Scrub) { c.scrub = s }
