package remap

import "sync/atomic"

// This file lets reads of pending blocks fail fast. A drive may take minutes to report that a
// sector does not read, and every read of a pending block would wait for that. So after a failed
// try a pending block is not tried again for Policy.FailFast: reads of it fail at once with the
// errno of that try. This affects only reads of pending blocks, not writes and retests.
//
// A failure is remembered with the blocks that were tried together. A later read is held back only
// if it reads all of these blocks, because some of them may be readable one by one. Within a
// physical block that is not possible, so there any of the blocks holds the read back.

// failures remembers failed reads, for all queues of a device. It has a fixed size. A newer failure
// may replace an older one; the older block is then tried once more.
type failures [failureSets][failureWays]failure

const (
	failureSets = 512
	failureWays = 4 // failures that may be remembered of the units of one set
	// Failures of a unit within this part of Policy.FailFast are merged into one.
	failureMerge = 16
)

// failure is about one unit. key is 0 while another queue writes the other fields. A reader reads
// key before and after them; if it is the same, the fields belong together.
type failure struct {
	// unit<<16 | blocks that failed by themselves<<8 | blocks that failed together
	key atomic.Uint64
	at  atomic.Int64 // monotonic ns
	res atomic.Int32 // what the drive answered last, a negative errno
}

// add remembers that blocks of a unit failed in one operation, with errno res. single: they lie in
// one physical block.
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

// held returns the errno, negative, of a failure after since that holds back a read of these blocks
// of a unit, or 0 if there is none.
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

// heldBack returns for a run of pending blocks how many blocks at its beginning are held back by
// the same errno, and that errno, negative; 0 means that they are not held back.
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

// failFast fails a read of blocks with the errno res, without a try.
func (e *Engine) failFast(q *request, block, count uint64, res int32) {
	if q.readErrno == 0 {
		e.counters(q).FailedFast++
	}
	e.cannotRead(q, block, count, res)
}

// failedToRead remembers the failed try of a read.
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
