package remap

import "sync/atomic"

// A drive may take minutes to say that a sector does not read, and each reader of a pending
// block would wait for that again. So a block that failed a try is not tried again for a
// while: reads of it fail at once, as they failed then. Writes and retests never ask here,
// and neither do reads of anything that is not pending.
//
// What failed is remembered as it was tried. Blocks that failed in one operation hold a later
// read back only if it reads all of them: one of them may read by itself. What is smaller than
// a physical block cannot.

// failures remembers what failed to be read, for all queues of a device. It has a fixed
// size, and a newer failure may take an older one's place: then that is tried once more.
type failures [failureSets][failureWays]failure

const (
	failureSets = 512
	failureWays = 4 // failures that may be remembered of the units of one set
	// What fails within this part of the time for which it is held back is remembered as one.
	failureMerge = 16
)

// failure is about one unit. key is 0 while somebody writes to it: who finds the same key
// before and after the time has read the two as they belong together.
type failure struct {
	// unit<<16 | blocks that failed by themselves<<8 | blocks that failed together
	key atomic.Uint64
	at  atomic.Int64 // monotonic ns
	res atomic.Int32 // what the drive answered last, a negative errno
}

// add remembers that the blocks of a unit failed, in one operation, and with what; single:
// none of them can read by itself.
func (f *failures) add(unit uint64, mask uint8, single bool, res int32, now, hold int64) {
	set := &f[unit%failureSets]
	own := withFailed(unit<<16, mask, single)
	to := &set[0]
	for i := range set {
		s := &set[i]
		key, at := s.key.Load(), s.at.Load()
		switch {
		case key == own: // it failed before
			s.res.Store(res)
			s.at.Store(now)
			return
		case key != 0 && key>>16 == unit && now-at < hold/failureMerge &&
			(single || uint8(key) == 0):
			s.key.CompareAndSwap(key, withFailed(key, mask, single))
			return
		case at < to.at.Load():
			to = s
		}
	}
	to.key.Store(0)
	to.res.Store(res)
	to.at.Store(now)
	to.key.Store(own)
}

func withFailed(key uint64, mask uint8, single bool) uint64 {
	if single {
		return key | uint64(mask)<<8
	}
	return key | uint64(mask)
}

// held returns what a read of these blocks of a unit is answered, a negative errno, if it
// reads something that failed since the time: what the drive answered then. Else 0.
func (f *failures) held(unit uint64, mask uint8, since int64) int32 {
	set := &f[unit%failureSets]
	for i := range set {
		s := &set[i]
		key := s.key.Load()
		at, res := s.at.Load(), s.res.Load()
		if key == 0 || key>>16 != unit || at <= since || s.key.Load() != key {
			continue
		}
		single, together := uint8(key>>8), uint8(key)
		if single&mask != 0 || together != 0 && together&^mask == 0 {
			return res
		}
	}
	return 0
}

// heldBack looks at a run of pending blocks: how many of the first are to be treated alike, and
// the errno, negative, with which they are held back; 0 if they are not.
func (e *Engine) heldBack(run Run) (count uint64, held int32) {
	if e.policy.FailFast < 0 {
		return run.Count, 0
	}
	per := e.geo.BlocksPerUnit()
	since := e.drv.Now() - int64(e.policy.FailFast)
	for count < run.Count {
		b := run.Start + count
		n := min(run.Count-count, per-b%per)
		h := e.shared.recent.held(b/per, maskOf(b%per, n), since)
		if count > 0 && h != held {
			break
		}
		held = h
		count += n
	}
	return count, held
}

// failFast dooms a read of blocks without a try: res is what it is answered.
func (e *Engine) failFast(q *request, block, count uint64, res int32) {
	if q.readErrno == 0 {
		e.counters(q).FailedFast++
	}
	e.cannotRead(q, block, count, res)
}

// failedToRead remembers what a read has tried in vain, by itself.
func (e *Engine) failedToRead(o *op, res int32) {
	if e.policy.FailFast < 0 {
		return
	}
	per := e.geo.BlocksPerUnit()
	single := within(o.block, o.count, e.geo.physicalBlocks())
	now := e.drv.Now()
	for b, end := o.block, o.block+o.count; b < end; {
		n := min(end-b, per-b%per)
		e.shared.recent.add(b/per, maskOf(b%per, n), single, res, now, int64(e.policy.FailFast))
		b += n
	}
}

// maskOf is the mask of n blocks of a unit from its block in on.
func maskOf(in, n uint64) uint8 { return uint8(1<<n-1) << in }

// within reports whether blocks lie in one aligned group of a size.
func within(block, count, size uint64) bool { return block/size == (block+count-1)/size }
