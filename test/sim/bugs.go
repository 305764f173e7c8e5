package sim

import (
	"slices"
	"syscall"
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// Bug is a bug that is planted to show that the checks can fail. Nearly all bugs are planted in the
// simulator's drivers, or in what these let the code under test see. A few bugs can only be inside
// of that code. They exist only in a build with the tag planted (Bug.Inside).
type Bug uint8

const (
	BugNone Bug = iota
	BugEarlyAck
	BugEarlyClear
	BugEarlyPublish
	BugCachedHeal
	BugEarlyJournal
	BugUnknownDurable
	BugUnknownForgotten
	BugCoversUnseen
	BugEarlyCheckpoint
	BugNoSpareFlush
	BugForgetsDirty
	BugFlushIgnored
	BugFlushRetried
	BugDropsFUA
	BugNoGrace
	BugNoTurns
	BugHealsHome
	BugWideMask
	BugRetiredForgotten
	BugNoPending
	BugInventsZeroes
	BugShortIsWhole
	BugHalfWrite
	BugDiscardHome
	BugNoBreaker
	BugNoProbe
	BugFirstBad
	BugReadsOneMirror
	BugWritesOneMirror
	BugStaleMirror
	BugStaleNotMarked
	BugStaleSpare
	BugNoEpoch
	BugSequenceReused
	BugEarlyRecovery
	BugNoReadBack
	BugRetestUnread
	BugPathIsMedium
	BugNoRetry
	BugFlushUnreported
	BugFlushAsMedium
	BugUnsettledStart
	BugNotesFirstOnly
	BugHealUnread
	BugMoveUnread
	BugAwayIsThere
	BugReaderInGrace
	BugReaderBuffer
	BugReaderForgets
	BugReaderStaleSpare
	BugScrubAhead
	BugScrubPath
	BugSlowOnce
	BugSpareStays
	BugOthersStay
	BugVerifyBlind
	BugBusyFlush
	BugEarlyLeave
	BugEarlyCapacity
	BugGrowsTogether
	BugUnnamedSlots
	BugGrownUnmarked
	BugEventsInPlace
	BugDrillKeeps
	BugFillAll
	BugFillUnread
	BugRetestCached
	BugRetestOnce
	BugRetestStale
	BugRetestUnwritten
	BugRetestUntold
	BugScrubOnePass
	BugRewriteUnread
	BugRewriteCached
	BugRewriteNotBusy
	BugSlowUnread
	BugMarkEarly
	BugMarkLost
	BugMarkSpared
	BugPlaceCached
	BugPlaceOnce
	bugs
)

// bugInfo describes a bug: a short name, for flags; what it does; and where it is planted. If
// ordinary seeds rarely meet what the bug needs, it also says what runs must be like, or which
// scenario to run.
type bugInfo struct {
	name, what, where string
	focus             Focus
}

// Focus makes all runs be about one thing that ordinary runs meet only among others.
type Focus uint8

const (
	FocusNone        Focus = iota
	FocusBudget            // the breaker's budget is small
	FocusMirror            // a mirror fails at some time, and copies of the metadata are damaged
	FocusMirrors           // all mirrors fail for a while
	FocusTurns             // the scenario "turns"
	FocusHomeFails         // the scenario "retest-home-fails"
	FocusScrubRetest       // the scenario "scrub-retest"
	FocusRewrite           // the scenario "scrub-rewrite"
	FocusRewriteBusy       // the scenario "scrub-rewrite-busy"
	FocusLatent            // one superblock of the backing reads, and part of a mirror
	FocusAway              // there is a spare device, and disks vanish and return
	FocusReader            // blocks are read in the background, and moved
	FocusFill              // blocks are filled from a backup while users write to them
	FocusMark              // lists of bad blocks are imported while users write
	FocusScrub             // the scrub runs, and the path to the disks comes and goes
	FocusTable             // the table is nearly full, and the metadata has no faults
	FocusRetest            // blocks are moved and retested, and nothing but media fails
	FocusEvents            // there is a flight recorder, and nothing is wrong with the disks' path
	FocusFull              // there are few spare units, and many bad blocks
	FocusSlow              // the scenario "scrub-slow"
	FocusSpares            // the scenario "scrub-spares"
	FocusSpareReads        // the scenario "spare-reads"
	FocusCrumble           // spare units in use go bad block by block
	FocusVerify            // the scenario "scrub-metadata"
	focuses
)

func (f Focus) String() string {
	return [...]string{"", "small budget", "one mirror fails", "all mirrors fail for a while",
		"scenario turns", "scenario retest-home-fails", "scenario scrub-retest",
		"scenario scrub-rewrite", "scenario scrub-rewrite-busy",
		"one superblock reads", "a spare device comes and goes",
		"background reader", "fills", "imports", "scrub", "the table is nearly full", "retests",
		"flight recorder", "spare region full", "scenario scrub-slow",
		"scenario scrub-spares", "scenario spare-reads", "spare units crumble",
		"scenario scrub-metadata"}[f]
}

// scenario returns the scenario that runs play; empty: they are random.
func (f Focus) scenario() string {
	return map[Focus]string{
		FocusTurns: "turns", FocusHomeFails: "retest-home-fails",
		FocusScrubRetest: "scrub-retest", FocusRewrite: "scrub-rewrite",
		FocusRewriteBusy: "scrub-rewrite-busy",
		FocusSlow:        "scrub-slow", FocusSpares: "scrub-spares",
		FocusSpareReads: "spare-reads",
		FocusVerify:     "scrub-metadata",
	}[f]
}

func (f Focus) apply(c *config) {
	switch f {
	case FocusBudget:
		c.budget, c.policy.Burst, c.policy.PerSecond = true, 1, 1
		c.faults, c.churn, c.spots = c.faults+8, 80, 1
	case FocusMirror:
		c.meta, c.probes = metaMirror, true
	case FocusMirrors:
		c.meta = metaAll
	case FocusAway:
		c.vanish, c.plan.SpareDeviceSize, c.meta = true, 12<<20, metaNone
		c.sparesBad, c.spots, c.reach, c.churn, c.faults = false, 1, 2, 150, c.faults+12
	case FocusReader:
		c.reader, c.moves, c.ops = 3, true, 80
	case FocusFill:
		c.moves, c.ops, c.spots, c.faults, c.meta = true, 120, 1, c.faults+8, metaNone
	case FocusMark:
		c.marks, c.ops, c.spots = true, 120, 1
	case FocusScrub:
		c.scrub, c.rates.path = true, 60
	case FocusRetest:
		c.moves, c.ops, c.plan.SpareBytes = true, 80, max(c.plan.SpareBytes, 40*metadata.UnitSize)
		c.spots, c.reach, c.maxUnits, c.zero, c.depth = 1, 1, 1, 1, 5
		c.vanish, c.shortages, c.budget, c.sparesBad, c.rates = false, false, false, false, rates{}
		c.policy.Burst, c.policy.PerSecond = 0, 0
	case FocusFull:
		c.plan.SpareBytes, c.faults, c.churn = 3*metadata.UnitSize, c.faults+12, 40
		c.vanish, c.shortages, c.budget, c.sparesBad = false, false, false, false
		c.policy.Burst, c.policy.PerSecond = 0, 0
	case FocusCrumble:
		c.crumble, c.moves, c.ops, c.churn, c.meta = true, true, 60, 80, metaNone
		c.plan.SpareBytes = max(c.plan.SpareBytes, 40*metadata.UnitSize)
		c.vanish, c.shortages, c.budget, c.sparesBad, c.rates = false, false, false, false, rates{}
		c.policy.Burst, c.policy.PerSecond, c.policy.IsolateFor = 0, 0, 2*time.Second
	case FocusTable:
		c.table, c.plan.TableRoom, c.meta = true, 1, metaNone
		c.vanish, c.shortages, c.rates, c.budget, c.sparesBad = false, false, rates{}, false, false
		c.policy.Burst, c.policy.PerSecond = 0, 0
		c.reach, c.maxUnits, c.faults = 40, 8, c.faults+40
	case FocusEvents:
		c.events, c.meta = true, metaNone
		c.vanish, c.shortages, c.rates = false, false, rates{}
		c.churn, c.faults = 60, c.faults+20
	case FocusLatent:
		// A cause for a mirror to miss a record would be a third fault: the mark of that mirror is
		// the one thing that is written over the last superblock.
		c.meta, c.oneSuperblock = metaReads, true
		c.vanish, c.shortages, c.rates = false, false, rates{}
		c.table, c.plan.TableRoom = false, 0
	}
}

const (
	inDriver  = "driver"            // of the engines, the arbiter or the committer
	inDisks   = "view of the disks" // what the load is shown
	inProduct = "tag planted"
)

var bugTable = [bugs]bugInfo{
	BugNone: {"none", "none", "", FocusNone},
	BugEarlyAck: {"early-ack", "a heal is acknowledged before its commit", inDriver,
		FocusNone},
	BugEarlyClear: {"early-clear", "a write to a lost or pending block is acknowledged " +
		"before the commit that clears it", inDriver, FocusNone},
	BugEarlyPublish: {"early-publish", "a heal is committed and published before its data is " +
		"written", inDriver, FocusNone},
	BugCachedHeal: {"cached-heal", "the data of a heal is written without FUA", inDriver,
		FocusNone},
	BugEarlyJournal: {"early-journal",
		"a commit counts as durable before its record is written", inDriver, FocusNone},
	BugUnknownDurable: {"unknown-durable", "a commit of unknown outcome counts as durable",
		inDriver, FocusNone},
	BugUnknownForgotten: {"unknown-forgotten", "a commit of unknown outcome is forgotten: not " +
		"stated again when the breaker closes", inDriver, FocusNone},
	BugCoversUnseen: {"covers-unseen", "a checkpoint covers records that the table it is " +
		"made of does not show yet", inDriver, FocusNone},
	BugEarlyCheckpoint: {"early-checkpoint", "a checkpoint frees log space before it is durable",
		inDriver, FocusNone},
	BugNoSpareFlush: {"no-spare-flush", "a flush leaves out the spare device", inDriver,
		FocusNone},
	BugForgetsDirty: {"forgets-dirty", "a recovery forgets what was dirty: its flushes leave " +
		"out what a dead server wrote", inDriver, FocusNone},
	BugFlushIgnored: {"flush-ignored", "a flush that failed is answered as good", inDriver,
		FocusNone},
	BugFlushRetried: {"flush-retried", "a flush that failed is tried again, and the second " +
		"answer counts", inDriver, FocusNone},
	BugDropsFUA: {"drops-fua", "a FUA write is written without FUA", inDriver, FocusNone},
	BugNoGrace: {"no-grace", "a spare unit is used again, and a busy unit copied, " +
		"without a grace period", inDriver, FocusNone},
	BugNoTurns: {"no-turns", "two heals of one block write to the same slot at once",
		inProduct, FocusTurns},
	BugHealsHome: {"heals-home",
		"what fails in a spare unit is written home, and the map stays", inDriver, FocusNone},
	BugWideMask: {"wide-mask", "a commit maps the whole unit where one block was healed",
		inDriver, FocusNone},
	BugRetiredForgotten: {"retired-forgotten", "a spare unit that failed is not retired in the " +
		"commit, and used again after a restart", inDriver, FocusNone},
	BugNoPending: {"no-pending", "a block that cannot be read does not become pending",
		inDriver, FocusNone},
	BugInventsZeroes: {"invents-zeroes", "a read of a lost block answers zeroes", inDriver,
		FocusNone},
	BugShortIsWhole: {"short-is-whole", "a short result is taken for the whole", inDriver,
		FocusNone},
	BugHalfWrite: {"half-write", "a write that failed is not isolated: its first half is " +
		"written, and the whole acknowledged", inDriver, FocusNone},
	BugDiscardHome: {"discard-home", "a discard leaves out the spare units", inDriver,
		FocusNone},
	BugNoBreaker: {"no-breaker", "the breaker closes by itself as soon as it opens",
		inDriver, FocusBudget},
	BugNoProbe: {"no-probe", "a commit counts although no mirror on the backing took " +
		"it: a vanished disk uses up spares", inDriver, FocusNone},
	BugFirstBad: {"first-bad", "a load replays one log up to the first bad record", inDisks,
		FocusNone},
	BugReadsOneMirror: {"reads-one-mirror", "a load reads one mirror and takes it for both",
		inDisks, FocusNone},
	BugWritesOneMirror: {"writes-one-mirror", "one mirror's write counts for both", inDriver,
		FocusNone},
	BugStaleMirror: {"stale-mirror", "a load ignores that a mirror is marked as stale",
		inDisks, FocusMirror},
	BugStaleNotMarked: {"stale-not-marked",
		"a mirror that missed a record is not marked as stale", inDriver, FocusMirror},
	BugStaleSpare: {"stale-spare", "a load ignores the epoch of the spare device", inDisks,
		FocusNone},
	BugNoEpoch: {"no-epoch", "a start does not raise the epoch of the superblocks",
		inDriver, FocusNone},
	BugSequenceReused: {"sequence-reused",
		"the number of a record of unknown outcome is used again", inProduct, FocusMirrors},
	BugRetestUnread: {"retest-unread", "a retest clears a pending block that does not read",
		inDriver, FocusNone},
	BugNotesFirstOnly: {"notes-first-only", "a read that fails notes the first block that " +
		"failed, and no other", inDriver, FocusNone},
	BugHealUnread: {"heal-unread", "the data of a heal is not read back from its spare unit",
		inDriver, FocusNone},
	BugAwayIsThere: {"away-is-there", "a missing spare device counts as present: its errors " +
		"count as those of its medium", inDriver, FocusAway},
	BugMoveUnread: {"move-unread", "a block is moved to a spare unit that is not read back",
		inDriver, FocusNone},
	BugEarlyRecovery: {"early-recovery", "a recovery begins before the dead server's last " +
		"write has landed", inDriver, FocusNone},
	BugNoRetry: {"no-retry", "metadata I/O that fails for lack of resources is not " +
		"tried again: a moment without memory opens the breaker", inDriver, FocusNone},
	BugPathIsMedium: {"path-is-medium", "a load treats each failed read as a bad place, also " +
		"if the path has failed", inProduct, FocusNone},
	BugFlushUnreported: {"flush-unreported", "a record's or a move's failed flush is tried " +
		"again, and not reported to the next flush of the user", inDriver, FocusNone},
	BugFlushAsMedium: {"flush-as-medium", "a disk without FUA is asked for it: a failed flush " +
		"looks like a write that failed, and is isolated and tried again", inDriver, FocusNone},
	BugUnsettledStart: {"unsettled-start", "a start reads before it has flushed what a dead " +
		"server left in the disks' caches", inDriver, FocusNone},
	BugReaderInGrace: {"reader-in-grace", "a grace period waits for internal requests; so moves " +
		"and the requests that they block wait too", inDriver, FocusReader},
	BugReaderBuffer: {"reader-buffer", "the buffer of an internal request that was cancelled is " +
		"used again while an operation reads into it", inDriver, FocusReader},
	BugReaderForgets: {"reader-forgets", "what an internal request could not read does not " +
		"become pending", inDriver, FocusReader},
	BugReaderStaleSpare: {"reader-stale-spare", "an internal request takes what it has read from " +
		"a spare unit that was given to other blocks meanwhile", inProduct, FocusReader},
	BugScrubAhead: {"scrub-ahead", "the position of the scrub is ahead of what it has read",
		inDriver, FocusScrub},
	BugScrubPath: {"scrub-path", "the scrub counts blocks as read that it did not reach, because " +
		"the path to the disk has failed", inDriver, FocusScrub},
	BugSlowOnce: {"slow-once", "a scrub calls blocks slow that were slow once", inProduct,
		FocusSlow},
	BugVerifyBlind: {"verify-blind", "a scrub reads the metadata and does not notice what does " +
		"not read", inProduct, FocusVerify},
	BugSpareStays: {"spare-stays", "a spare unit that went bad in use is given out again once " +
		"it is free", inProduct, FocusSpares},
	BugOthersStay: {"others-stay", "blocks that still read stay in a spare unit in which a " +
		"user's read has found bad ones", inProduct, FocusSpareReads},
	BugBusyFlush: {"busy-flush", "a flush that was not carried out for lack of resources counts " +
		"as carried out", inDriver, FocusNone},
	BugEarlyLeave: {"early-leave", "a server leaves its device while the Committer still writes",
		inDriver, FocusNone},
	BugEarlyCapacity: {"early-capacity", "the table takes more entries before every mirror has " +
		"larger slots", inDriver, FocusTable},
	BugGrowsTogether: {"grows-together", "a mirror leaves its place for a larger one before the " +
		"last one that did so is brought back", inProduct, FocusTable},
	BugUnnamedSlots: {"unnamed-slots", "larger slots are written before a superblock names them",
		inDriver, FocusTable},
	BugGrownUnmarked: {"grown-unmarked", "a mirror in a larger place is not marked as stale " +
		"while it has no whole checkpoint", inDriver, FocusTable},
	BugDrillKeeps: {"drill-keeps", "a drill keeps its spare units when it has ended", inProduct,
		FocusEvents},
	BugFillAll: {"fill-all", "a fill replaces blocks that are neither pending nor lost",
		inProduct, FocusFill},
	BugFillUnread: {"fill-unread", "a fill replaces pending blocks without a try to read them",
		inProduct, FocusFill},
	BugRetestCached: {"retest-cached", "a retest reads a home right after it was written, and no " +
		"other place before", inDriver, FocusRetest},
	BugRetestOnce: {"retest-once", "a retest tests a home once, not twice", inDriver, FocusRetest},
	BugRetestStale: {"retest-stale", "a retest moves a block home that was written to since its " +
		"home was written", inDriver, FocusRetest},
	BugRetestUnwritten: {"retest-unwritten", "a block goes home whose home was not written in " +
		"the first test, because it was pending there", inProduct, FocusRetest},
	BugRetestUntold: {"retest-untold", "a retest does not know that another operation has seen a " +
		"home fail", inProduct, FocusHomeFails},
	BugScrubOnePass: {"scrub-one-pass", "the retest of the scrub takes a block home that passed " +
		"after one pass only", inProduct, FocusScrubRetest},
	BugRewriteUnread: {"rewrite-unread", "a weak block that the scrub rewrites counts as mended, " +
		"and its home was not read", inProduct, FocusRewrite},
	BugRewriteCached: {"rewrite-cached", "a weak block that the scrub rewrites is read from the " +
		"disk's cache, not after a flush", inDriver, FocusRewrite},
	BugRewriteNotBusy: {"rewrite-not-busy", "a block that the scrub rewrites is not busy " +
		"meanwhile: users write to it", inProduct, FocusRewriteBusy},
	BugSlowUnread: {"slow-unread", "a slow block is moved to a spare unit that is not read back",
		inProduct, FocusSlow},
	BugMarkEarly: {"import-early", "an import ends before its marks are durable", inProduct,
		FocusMark},
	BugMarkLost: {"import-lost", "an import takes listed blocks for such that have no copy",
		inProduct, FocusMark},
	BugMarkSpared: {"import-late", "an import marks blocks that a heal is about to move",
		inProduct, FocusMark},
	BugEventsInPlace: {"events-in-place", "a page of the flight recorder is written over its " +
		"newest copy", inProduct, FocusEvents},
	BugPlaceCached: {"place-cached", "a block that is written in place is read right after that, " +
		"and no other place before", inDriver, FocusFull},
	BugPlaceOnce: {"place-once", "a block that is written in place is read once, not twice",
		inProduct, FocusFull},
	BugNoReadBack: {"no-read-back", "a superblock counts once its write is answered, " +
		"whether or not it reads", inDriver, FocusLatent},
}

func (b Bug) String() string { return bugTable[b].name }

// Focus is what runs that look for the bug must be about.
func (b Bug) Focus() Focus { return bugTable[b].focus }

// Inside reports that the bug needs a build with the tag planted.
func (b Bug) Inside() bool { return bugTable[b].where == inProduct }

// tagKey names a tag of a queue.
type tagKey struct {
	queue int
	tag   uint16
}

// early is what BugEarlyAck and BugEarlyClear know of a request that was answered too early. Its
// next message waits for the true answer, so that the arbiter is not confused.
type early struct {
	answers int
	held    []remap.Message
}

// toArbiter passes a message of an engine on, unless a bug holds it back.
func (b Bug) toArbiter(sv *server, q int, m *remap.Message) bool {
	key := tagKey{q, m.Tag}
	switch b {
	case BugEarlyAck, BugEarlyClear:
		if e := sv.early[key]; e != nil && e.answers > 0 && m.Kind != remap.MsgGraceDone &&
			m.Kind != remap.MsgCheckDevice {
			e.held = append(e.held, *m)
			return false
		}
		if m.Kind == remap.MsgCommit && (b == BugEarlyAck || m.Errno == 0) {
			if sv.early[key] == nil {
				sv.early[key] = &early{}
			}
			sv.early[key].answers++
			ack := *m
			ack.Kind = remap.MsgCommitted
			sv.sendEngine(q, ack)
		}
	case BugNoPending, BugReaderForgets:
		if m.Kind == remap.MsgPending && (b == BugNoPending || int(m.Tag) >= sv.s.cfg.depth) {
			ack := *m
			ack.Kind = remap.MsgCommitted
			sv.sendEngine(q, ack)
			return false
		}
	case BugNotesFirstOnly:
		if r := sv.s.req(q, m.Tag); m.Kind == remap.MsgPending && r != nil {
			if r.noted {
				ack := *m
				ack.Kind = remap.MsgCommitted
				sv.sendEngine(q, ack)
				return false
			}
			r.noted = true
			m.First &= -m.First
			m.Count, m.Last = 1, m.First
		}
	}
	return true
}

// toEngine passes a message of the arbiter on, unless a bug holds it back.
func (b Bug) toEngine(sv *server, q int, m *remap.Message) bool {
	switch b {
	case BugEarlyAck, BugEarlyClear:
		e := sv.early[tagKey{q, m.Tag}]
		if e == nil || e.answers == 0 || m.Kind != remap.MsgCommitted && m.Kind != remap.MsgFailed {
			return true
		}
		e.answers--
		held := e.held
		e.held = nil
		for _, h := range held {
			sv.receive(q, &h)
		}
		return false
	case BugReaderInGrace:
		if m.Kind == remap.MsgGrace && sv.reader.inflight[q] > 0 {
			late := *m
			sv.reader.late[q] = append(sv.reader.late[q], func() { sv.sendEngine(q, late) })
			return false
		}
	case BugNoGrace:
		if m.Kind == remap.MsgGrace {
			done := remap.Message{Kind: remap.MsgGraceDone, Queue: uint16(q),
				Generation: m.Generation}
			sv.receive(q, &done)
			return false
		}
	}
	return true
}

// issue lets an operation of an engine begin, unless a bug handles it.
func (b Bug) issue(q *queue, d *diskIO, done func(int32)) bool {
	s := q.sv.s
	class := classIO + uint8(q.index)
	writes := d.kind == ioWrite || d.kind == ioZero
	switch {
	case b.readsInPlace(q, d, done):
		return false
	case b == BugHealUnread && d.readBack:
		s.later(class, func() { done(int32(d.n)) })
		return false
	case b == BugEarlyPublish && writes && s.inSpare(d) && d.fua:
		s.begin(class, d, func(int32) {})
		s.later(class, func() { done(int32(d.n)) })
		return false
	case b == BugNoSpareFlush && d.kind == ioFlush && d.d.index != 0,
		b == BugDiscardHome && d.kind == ioDiscard && s.inSpare(d):
		s.later(class, func() { done(0) })
		return false
	case b == BugCachedHeal && s.inSpare(d), b == BugDropsFUA && !s.inSpare(d):
		d.fua = false
	case b == BugShortIsWhole && (d.kind == ioRead || d.kind == ioWrite):
		s.begin(class, d, func(res int32) {
			if res > 0 {
				res = int32(d.n)
			}
			done(res)
		})
		return false
	case b == BugFlushIgnored && d.kind == ioFlush:
		s.begin(class, d, func(int32) { done(0) })
		return false
	case b == BugBusyFlush && d.kind == ioFlush:
		s.begin(class, d, func(res int32) { done(notBusy(res)) })
		return false
	case b == BugFlushRetried && d.kind == ioFlush:
		s.begin(class, d, func(res int32) {
			if res == 0 {
				done(0)
			} else {
				s.begin(class, d.from(0), done)
			}
		})
		return false
	case b == BugHealsHome && writes && s.inSpare(d) && !d.fua:
		afterMedium(q, d, done, func() {
			home := d.from(0)
			dev, off := s.plan.HomeOf(d.block)
			home.d, home.off = s.disks[dev], off
			s.begin(class, home, done)
		})
		return false
	case b == BugHalfWrite && d.kind == ioWrite && d.n >= 2*int64(s.plan.BlockSize()):
		afterMedium(q, d, done, func() { writeHalf(q, d, done) })
		return false
	}
	return true
}

// notBusy turns an error for lack of resources into a success.
func notBusy(res int32) int32 {
	if res < 0 && remap.Classify(res) == remap.ClassResource {
		return 0
	}
	return res
}

// afterMedium carries out an operation, and then does something else if its medium has failed.
func afterMedium(q *queue, d *diskIO, done func(int32), then func()) {
	q.sv.s.begin(classIO+uint8(q.index), d, func(res int32) {
		if res >= 0 || remap.Classify(res) != remap.ClassMedium {
			done(res)
			return
		}
		then()
	})
}

// writeHalf writes the first half of an operation's blocks, and says that all were written.
func writeHalf(q *queue, d *diskIO, done func(int32)) {
	s := q.sv.s
	half := d.from(0)
	half.n = d.n / 2 / int64(s.plan.BlockSize()) * int64(s.plan.BlockSize())
	half.data = half.data[:half.n]
	s.begin(classIO+uint8(q.index), half, func(res int32) {
		if res > 0 {
			res = int32(d.n)
		}
		done(res)
	})
}

// finish passes the answer to a request on.
func (b Bug) finish(q *queue, r *userReq, res int32) int32 {
	if b == BugInventsZeroes && r.Op == remap.OpRead && res == -int32(syscall.EIO) &&
		q.has(r, remap.KindLost) {
		clear(r.buf)
		return 0
	}
	return res
}

// operation carries out an operation of the Coordinator as a bug does; false: there is no such bug.
func (b Bug) operation(sv *server, asked *coordinator.IO, io *diskIO, done func(int32)) bool {
	switch {
	case b.retestTransfer(sv, io, done):
		return true
	case b == BugRewriteCached && asked.Transfer && sv.coord.Scrub().Mending:
		if io.fua = false; io.kind == ioFlush {
			sv.s.later(classTransfer, func() { done(0) })
			return true
		}
	case b == BugFlushAsMedium && asked.Durable && io.kind == ioWrite:
		io.fua = true
	case b == BugFlushAsMedium && asked.Durable && io.kind == ioFlush:
		sv.s.later(classJournal, func() { done(0) })
		return true
	case b == BugBusyFlush && io.kind == ioFlush:
		sv.s.begin(classJournal, io, func(res int32) { done(notBusy(res)) })
		return true
	case b == BugFlushUnreported && io.kind == ioFlush:
		// An operation that lacked resources is tried again, and does not count.
		sv.s.begin(classJournal, io, func(res int32) {
			if res < 0 {
				res = -int32(syscall.EAGAIN)
			}
			done(res)
		})
		return true
	}
	return !asked.Transfer && b.metadata(sv, io, done)
}

// metadata carries out an operation of the committer as a bug does; false: there is no such bug.
func (b Bug) metadata(sv *server, io *diskIO, done func(int32)) bool {
	s := sv.s
	answer := func(res int32) bool {
		s.later(classJournal, func() { done(res) })
		return true
	}
	if b.hidesSuperblocks() && s.ofSuperblock(io) {
		// The committer reads back what it wrote, whatever the disk holds.
		p := place{io.d.index, io.off}
		if io.kind == ioWrite {
			sv.written[p] = slices.Clone(io.data)
		} else if data := sv.written[p]; data != nil {
			s.later(classJournal, func() { done(int32(copy(io.data, data))) })
			return true
		}
	}
	inMirror := slices.IndexFunc(s.mirrors(), func(m metadata.Region) bool {
		return io.kind == ioWrite && io.d.index == 0 && io.off >= m.Start &&
			io.off < m.Start+m.Length
	})
	switch {
	case b == BugNoProbe && (inMirror >= 0 || io.kind == ioFlush):
		s.begin(classJournal, io, func(res int32) {
			if io.d.missing != 0 {
				res = int32(io.n)
			}
			done(res)
		})
		return true
	case io.kind != ioWrite:
		return false
	case b == BugEarlyCheckpoint && s.inSlots(io):
		io.late = 1 << 40 // reading back shows nothing, and no other flush helps
	case b == BugEarlyJournal && !s.inSlots(io):
		io.data = slices.Clone(io.data)
		s.muchLater(classJournal, 10, func() { s.begin(classJournal, io, func(int32) {}) })
		return answer(int32(io.n))
	case b == BugWritesOneMirror && inMirror == 1,
		b == BugNoEpoch && !sv.opened && s.ofSuperblock(io):
		return answer(int32(io.n))
	case b == BugStaleNotMarked && io.n == pageSize && valid(io.data):
		io.data = slices.Clone(io.data)
		clearStale(io.data, 0)
	case b == BugGrownUnmarked && io.n == pageSize && valid(io.data):
		io.data = slices.Clone(io.data)
		clearStale(io.data, s.mirrors()[0].Length)
	case b == BugUnnamedSlots && io.n == pageSize && valid(io.data) && hasLargerSlots(io.data):
		return answer(int32(io.n))
	}
	return false
}

// hidesSuperblocks says that the bug shows the committer the superblocks that it wrote, and not
// those on the disks.
func (b Bug) hidesSuperblocks() bool {
	return b == BugNoEpoch || b == BugStaleNotMarked || b == BugNoReadBack ||
		b == BugUnnamedSlots || b == BugGrownUnmarked
}

// results passes on how tickets of the committer ended.
func (b Bug) results(c *committer, results []metadata.Result) []metadata.Result {
	if b != BugCoversUnseen || !c.sv.opened {
		return results
	}
	if len(results) > 0 {
		c.later(results)
		return nil
	}
	return c.due()
}

// commits passes the entries of a commit on.
func (b Bug) commits(sv *server, entries []metadata.Entry) []metadata.Entry {
	switch b {
	case BugRetiredForgotten:
		return slices.DeleteFunc(slices.Clone(entries),
			func(e metadata.Entry) bool { return e.State == metadata.StateRetired })
	case BugWideMask:
		entries = slices.Clone(entries)
		per := uint64(metadata.UnitSize / sv.s.plan.BlockSize())
		for i := range entries {
			if e := &entries[i]; e.State == metadata.StateMapped &&
				(e.Unit+uint64(e.Count))*per <= sv.s.plan.Blocks() {
				e.Mask = uint8(1<<per - 1)
			}
		}
	}
	return entries
}

// restates passes on what is stated again after a commit of unknown outcome.
func (b Bug) restates(entries []metadata.Entry) []metadata.Entry {
	if b == BugUnknownForgotten {
		return nil
	}
	return entries
}

// tripped is called when the breaker has opened.
func (b Bug) tripped(sv *server) {
	if b == BugNoBreaker {
		sv.s.later(classJournal, func() {
			sv.s.resume()
		})
	}
}

// delaysWrite keeps a dead server's write, to let it take effect later; false: the write ends now,
// or never.
func (b Bug) delaysWrite(s *sim, io *diskIO) bool {
	if b != BugEarlyRecovery || io.kind != ioWrite || io.whom == "journal" || io.whom == "move" ||
		!s.chance(1, 2) {
		return false
	}
	late := *io
	late.data = slices.Clone(io.data)
	s.lateWrites = append(s.lateWrites, &late)
	return true
}

// transferred returns the result of a relocation's operation that the arbiter gets.
func (b Bug) transferred(sv *server, io *diskIO, res int32) int32 {
	if b == BugAwayIsThere && io.kind == ioRead && io.d.index != 0 && io.d.missing != 0 &&
		sv.s.ofSuperblock(io) {
		return int32(io.n)
	}
	if b == BugMoveUnread {
		// A read returns what was written, whatever the disk holds.
		p := place{io.d.index, io.off}
		if io.kind == ioWrite {
			sv.written[p] = slices.Clone(io.data)
		} else if data := sv.written[p]; len(data) == len(io.data) && sv.s.inSpare(io) && res < 0 {
			return int32(copy(io.data, data))
		}
	}
	if b != BugRetestUnread || io.kind != ioRead || res >= 0 {
		return res
	}
	// This is about the read of a block that is pending at home, before it is remapped or retested.
	size := int64(sv.s.plan.BlockSize())
	per := metadata.UnitSize / size
	block := io.off / size
	dev, off := sv.s.plan.HomeOf(uint64(min(block, int64(sv.s.plan.Blocks())-1)))
	info := sv.restored.Map.Unit(uint64(block / per))
	if dev != io.d.index || off != io.off || (info.Pending&^info.Mapped())>>(block%per)&1 == 0 {
		return res
	}
	return int32(io.n)
}

// booted is called when a server was started.
func (b Bug) booted(s *sim) {
	if b == BugForgetsDirty {
		for _, d := range s.disks {
			d.forgets = d.seq
		}
	}
	for _, io := range s.lateWrites {
		s.muchLater(classTransfer, 50, func() { io.apply(io.done, io.n) })
	}
	s.lateWrites = nil
}

func (s *sim) inSpare(d *diskIO) bool {
	for _, r := range s.plan.SpareRegions() {
		if r.Device == d.d.index && d.off >= r.Start && d.off < r.Start+r.Length {
			return true
		}
	}
	return false
}

// ofSuperblock reports whether an operation of the committer is about a superblock.
func (s *sim) ofSuperblock(d *diskIO) bool {
	return slices.Contains(s.plan.SuperblockPlaces(d.d.index), d.off)
}

// inSlots reports whether an operation is about a checkpoint slot of a mirror.
func (s *sim) inSlots(d *diskIO) bool {
	sb := s.plan.Superblock()
	return slices.ContainsFunc(sb.Regions, func(r metadata.Region) bool {
		return r.Kind == metadata.RegionMirror && r.Device == d.d.index && d.off >= r.Start &&
			d.off < r.Start+2*sb.SlotBytes
	})
}
