package remap

import (
	"errors"
	"math/bits"
	"syscall"
	"time"

	"ublkremap/metadata"
)

// This file is about reads that the device makes for itself: a scrub, a check of blocks that
// another tool calls bad, a copy of the disk. They have tags of their own beside the user's, and
// follow the rules of a user's read: what fails is isolated, and noted as pending before the
// result is reported. Three things differ.
//
//   - They go on past what does not read, and the result says of each block what came of it.
//   - No user's request waits for them. They use none of the operations that the user's requests
//     share, they make no unit busy, and no grace period waits for them. A read from a spare unit
//     is done once more if a grace period began meanwhile: the unit may have been given to other
//     blocks since.
//   - They are counted by themselves: Shared.InternalCounters.

// InternalRequest is one read of the device for itself.
type InternalRequest struct {
	// Tag is at least EngineConfig.Depth and below Depth + InternalTags. It is free again once
	// FinishInternal was called for it.
	Tag   uint16
	Cause metadata.Cause // of the pending marks that come of it
	Block uint64         // first exported block
	Count uint32         // blocks: 1 to EngineConfig.MaxBlocks
	// Buffer is Count blocks long, and as aligned as the disk requires. It belongs to the engine,
	// and to the operations that it has issued, until FinishInternal was called.
	Buffer []byte
}

// InternalResult is the result of an internal request. A block is in one of three groups: it was
// read, it failed, or it was not tried; then Ended says why.
type InternalResult struct {
	Tag uint16
	// Read are the blocks whose data is in the buffer, as it was at some time while the request
	// was under way.
	Read Blocks
	// Failed are the blocks that have no data to give: they failed for their medium, now or a
	// moment ago, or there was no time to try them, or they are lost. They are pending or lost now,
	// unless NotNoted is set, or they were written to or moved meanwhile.
	Failed Blocks
	// Weak are blocks of Read that were read only after a try had failed for the medium: a try of
	// them alone or of their unit, or else the smallest one that failed. They are not weak if a
	// block beside them failed, because that is why such a try fails.
	Weak Blocks
	// Spares are spare units in which a try of a unit, or of a larger physical block, failed for
	// the medium, the first MaxBadSpares of them. What failed may have been read
	// later, or may live elsewhere by now.
	Spares []BadSpare
	// Errno is the error of the first block that failed, negative; 0 if none did.
	Errno int32
	// Ended is why blocks were not tried, negative: an error that says nothing of the medium, the
	// medium's error if it could not be noted, or ECANCELED. 0: all were tried.
	Ended int32
	// NotNoted: something failed and could not be noted as pending, because the breaker is open,
	// the table is full, or nothing on the device reads. In the last case the device is missing,
	// and its errors say nothing about its medium.
	NotNoted bool
	// Slowest is how long the slowest operation took from its issue to its result, and SlowBlock
	// and SlowCount are the exported blocks that it was about.
	Slowest   time.Duration
	SlowBlock uint64
	SlowCount uint32
}

// MaxBadSpares is how many spare units an InternalResult names.
const MaxBadSpares = 8

// BadSpare is a spare unit that failed, and an exported block that lived there.
type BadSpare struct {
	Spare uint32
	Block uint64
}

// Blocks is a set of the blocks of a request, counted from its first block. It is valid as long
// as the result that it is part of.
type Blocks struct{ set blockset }

// Has reports whether a block is in the set.
func (b Blocks) Has(block uint32) bool { return b.set[block/64]>>(block%64)&1 != 0 }

// Count returns how many blocks are in the set.
func (b Blocks) Count() (n uint32) {
	for _, word := range b.set {
		n += uint32(bits.OnesCount64(word))
	}
	return n
}

// AppendRuns appends the runs of blocks in the set, as exported blocks, if first is the request's.
func (b Blocks) AppendRuns(dst []Run, first uint64) []Run {
	for i, n := uint64(0), uint64(len(b.set))*64; i < n; {
		upto, in := b.set.alike(i, n)
		if in {
			dst = append(dst, Run{Start: first + i, Count: upto - i})
		}
		i = upto
	}
	return dst
}

// InternalDriver gets the results of internal requests. It must not call back into the Engine
// before it returns; the result is valid only during the call.
type InternalDriver interface {
	FinishInternal(r *InternalResult)
}

// ErrInternalTag is returned for an internal request whose tag is in use, or is none of those
// that are for internal requests.
var ErrInternalTag = errors.New("not a free tag of an internal request")

// internalRequest is what an Engine knows of an internal request beside its request.
type internalRequest struct {
	buffer       []byte
	cause        metadata.Cause
	read, failed blockset
	weak         blockset
	doubt        span // the smallest try that failed, if it was larger than that
	spares       [MaxBadSpares]BadSpare
	result       InternalResult
	began        int64  // monotonic ns: of the operation that is under way
	graces       uint64 // Engine.graces when that operation was begun
}

// internalParity marks the operations of internal requests: grace periods do not count them.
const internalParity = 2

// initInternal makes room for the internal requests.
func (e *Engine) initInternal() {
	e.internal = make([]internalRequest, e.cfg.InternalTags)
	for i := range e.internal {
		x := &e.internal[i]
		x.read, x.failed = newBlockset(e.cfg.MaxBlocks), newBlockset(e.cfg.MaxBlocks)
		x.weak = newBlockset(e.cfg.MaxBlocks)
		e.requests[e.cfg.Depth+i].internal = x
	}
}

// InternalInflight returns the number of internal requests that were submitted and are not
// finished.
func (e *Engine) InternalInflight() int { return e.internalActive }

// SubmitInternal begins an internal request. Its result goes to InternalDriver.FinishInternal,
// perhaps before this returns. It returns ErrInternalTag, or ErrRange for blocks past the
// device's end, too many or too few of them, or a buffer of another length; then nothing was
// begun, and the buffer is the caller's.
func (e *Engine) SubmitInternal(r *InternalRequest) error {
	i := int(r.Tag) - e.cfg.Depth
	switch {
	case i < 0 || i >= len(e.internal) || e.requests[r.Tag].active:
		return ErrInternalTag
	case r.Count == 0 || int(r.Count) > e.cfg.MaxBlocks,
		r.Block >= e.geo.Blocks || uint64(r.Count) > e.geo.Blocks-r.Block,
		len(r.Buffer) != int(r.Count)*e.geo.BlockSize:
		return ErrRange
	}
	q, x := &e.requests[r.Tag], &e.internal[i]
	q.Request = Request{Tag: r.Tag, Op: OpRead, Block: r.Block, Count: r.Count}
	q.active, q.errno, q.cancelled, q.notNoted = true, 0, false, false
	q.cursor, q.end = r.Block, r.Block+uint64(r.Count)
	x.buffer, x.cause = r.Buffer, r.Cause
	x.read.clear()
	x.failed.clear()
	x.weak.clear()
	x.doubt = span{}
	x.result = InternalResult{Tag: r.Tag, Read: Blocks{x.read}, Failed: Blocks{x.failed},
		Weak: Blocks{x.weak}, Spares: x.spares[:0]}
	e.internalActive++
	e.advance(q)
	return nil
}

// CancelInternal ends an internal request early: no further operation is begun. It finishes once
// the operation that is under way has ended, perhaps before this returns; until then the buffer is
// not the caller's. Blocks that were found bad by themselves are noted. Blocks that failed only
// together with others are not. A tag that is not in use is left alone.
func (e *Engine) CancelInternal(tag uint16) {
	i := int(tag) - e.cfg.Depth
	if i < 0 || i >= len(e.internal) || !e.requests[tag].active {
		return
	}
	q := &e.requests[tag]
	q.cancelled = true
	e.fail(q, -int32(syscall.ECANCELED))
	e.unpark(q)
	if o := &e.ops[tag]; o.due != 0 { // it waits for resources, and is not with the driver
		o.due = 0
		e.delayed--
		e.release(q, o)
	}
	e.advance(q)
}

// InternalBuffer returns the memory that an operation of an internal request reads into. A
// driver knows such an operation by its Tag.
func (e *Engine) InternalBuffer(io *IO) []byte {
	return e.requests[io.Tag].internal.buffer[io.Buffer:][:io.Length]
}

// internalStarted notes when an operation of an internal request begins.
func (e *Engine) internalStarted(q *request, o *op) {
	o.parity = internalParity
	q.internal.began, q.internal.graces = e.drv.Now(), e.graces
}

// internalCompleted takes the result of an operation of an internal request. It reports true if
// nothing else is to be done. A cancelled request does not continue and is not retried. If the
// spare unit that was read may have been given to another unit meanwhile, it is read once more.
func (e *Engine) internalCompleted(q *request, o *op, res int32) (handled bool) {
	x := q.internal
	now := e.drv.Now()
	if took := time.Duration(now - x.began); took > x.result.Slowest {
		x.result.Slowest, x.result.SlowBlock, x.result.SlowCount = took, o.block, uint32(o.count)
	}
	x.began = now // of what is left, if the result was short
	stale := o.place.mapped && x.graces != e.graces && !plantedStaleSpare
	switch {
	case res < 0:
		handled = q.cancelled && Classify(res) == ClassResource
	case stale:
		handled = true
		if o.kind == opFirst {
			q.cursor = o.block
		}
	default:
		from := o.block - q.Block
		to := from + uint64(res)/uint64(e.geo.BlockSize)
		x.read.add(from, to)
		x.failed.remove(from, to)
		handled = q.cancelled && int64(res) < o.io.Length
	}
	if handled {
		e.release(q, o)
		e.advance(q)
	}
	return handled
}

// span is a run of blocks of a request, from its first block on; from == to: none.
type span struct{ from, to uint64 }

// internalDoubt notes that a try of an internal request failed for its medium.
func (e *Engine) internalDoubt(q *request, o *op) {
	x := q.internal
	if o.place.mapped && o.count <= e.coarseBlocks() {
		per := e.geo.BlocksPerUnit()
		for i, b := uint32(0), o.block; b < o.block+o.count; i, b = i+1, b/per*per+per {
			x.badSpare(BadSpare{o.place.unit + i, b})
		}
	}
	from := o.block - q.Block
	switch to := from + o.count; {
	case o.count <= e.coarseBlocks():
		x.weak.add(from, to)
	case x.doubt.to == x.doubt.from || o.count <= x.doubt.to-x.doubt.from:
		x.doubt = span{from, to}
	}
}

// badSpare notes that a spare unit failed.
func (x *internalRequest) badSpare(bad BadSpare) {
	for _, s := range x.result.Spares {
		if s.Spare == bad.Spare {
			return
		}
	}
	if len(x.result.Spares) < MaxBadSpares {
		x.result.Spares = append(x.result.Spares, bad)
	}
}

// settleWeak leaves in weak what was read in the end, and what no block that failed explains: a try
// of a unit, or of a larger physical block, fails for one of its blocks.
func (e *Engine) settleWeak(q *request) {
	x := q.internal
	size := e.coarseBlocks()
	for i := range x.failed {
		for word := x.failed[i]; word != 0; word &= word - 1 {
			block := q.Block + uint64(i*64+bits.TrailingZeros64(word))
			from := max(block/size*size, q.Block)
			x.weak.remove(from-q.Block, min(block/size*size+size, q.end)-q.Block)
		}
	}
	if x.weak.empty() && x.failed.empty() {
		x.weak.add(x.doubt.from, x.doubt.to)
	}
	for i := range x.weak {
		x.weak[i] &= x.read[i] &^ x.failed[i]
	}
}

// internalFailed notes that blocks of an internal request have no data to give.
func (x *internalRequest) internalFailed(q *request, block, count uint64, errno int32) {
	x.failed.add(block-q.Block, block-q.Block+count)
	if x.result.Errno == 0 {
		x.result.Errno = errno
	}
}

// internalUntried gives up what a cancelled request has not tried by itself: it is not noted, so
// the result does not say that it failed.
func (x *internalRequest) internalUntried(q *request) {
	for i, word := range q.suspect {
		x.failed[i] &^= word
	}
	q.suspect.clear()
}

// finishInternal reports the result of an internal request. Nothing of it is in flight.
func (e *Engine) finishInternal(q *request) {
	x := q.internal
	c := &e.ownInternal
	c.Reads++
	c.ReadBytes += uint64(x.result.Read.Count()) * uint64(e.geo.BlockSize)
	if q.isolating {
		if q.errno == 0 && x.result.Errno == 0 {
			c.HealedReads++
		}
		e.resetIsolation(q)
	}
	x.result.Ended = q.errno
	e.settleWeak(q)
	if x.result.Failed.Count() == 0 {
		x.result.Errno = 0 // what failed was read in the end
	}
	x.buffer = nil
	e.unpark(q)
	q.active = false
	e.internalActive--
	e.cfg.Internal.FinishInternal(&x.result)
}

// notNoted takes a read of which something failed and could not be noted. It counts each read once.
func (e *Engine) notNoted(q *request) {
	if !q.notNoted {
		q.notNoted = true
		e.counters(q).NotNoted++
	}
	if q.internal != nil {
		q.internal.result.NotNoted = true
	}
}

// counters are those that a request counts in.
func (e *Engine) counters(q *request) *Counters {
	if q.internal != nil {
		return &e.ownInternal
	}
	return &e.own
}

// pendingCause is the cause of the pending marks that come of a read.
func (q *request) pendingCause() metadata.Cause {
	if q.internal != nil {
		return q.internal.cause
	}
	return metadata.CauseRead
}
