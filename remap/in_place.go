package remap

// This file writes to pending blocks in place when no spare unit is free and they do not read.
// Many drives make a sector well when it is written: they put a spare sector of their own in its
// place. But a drive may take a write in its cache only. So the answer to the request waits for
// more than the write:
//
//  1. The data is written to the blocks, and is durable: with FUA, or with a flush after it.
//  2. Other places of the disk are read, spread over all of it, so that the cache holds those.
//  3. The blocks are read.
//  4. 2 and 3 again.
//  5. The record that the blocks are not pending any more, then the answer.
//
// Crashes: before 5 the write was never acknowledged, and the blocks are pending; what a read of
// them finds is what the disk has, which may be old or new data, or an error. After 5 the blocks
// were read twice after they were written. If anything fails the blocks stay pending, and the
// request fails as without a spare unit.
//
// As in any heal, other heals of the blocks wait, and so do relocations of their units.

// inPlaceReads is how often a block that was written in place must be read.
const inPlaceReads = 2

// readElsewhere reads another place of the disk on which the span was written in place.
func (e *Engine) readElsewhere(q *request) {
	h := &q.heal
	h.step = healWriting
	want, _, _ := e.geo.home(h.from)
	var offset int64
	var blocks uint64
	for range elsewhereTries {
		var device uint8
		var well bool
		e.elsewhere++
		at := e.elsewhere * 0x9e37_79b9_7f4a_7c15 // spreads evenly: it is 2^64 / φ
		device, offset, blocks, well = e.geo.elsewhere(e.m, want != 0, at,
			uint64(e.cfg.DiscardBlocks))
		if well && device == want {
			break
		}
		blocks = 0
	}
	if blocks == 0 { // there is no other place
		h.others, h.step, h.todo = 0, healNone, todoReadBack
		return
	}
	o := e.acquire(q)
	o.kind, o.block, o.count, o.place = opElsewhere, q.Block, blocks, place{}
	io := &o.io
	io.Op, io.FUA, io.Zero, io.Discard = OpRead, false, false, true
	io.Device, io.Tag, io.Offset, io.Buffer = want, q.Tag, offset, 0
	io.Length = int64(blocks) * int64(e.geo.BlockSize)
	e.start(q, o)
}

// elsewhereRead takes a read of another place that went well.
func (e *Engine) elsewhereRead(q *request, o *op) {
	h := &q.heal
	o.io.Discard = false
	h.others--
	h.step, h.todo = healNone, todoReadBack
}

// elsewhereFailed takes a read of another place that failed for its medium, or so it seems: a disk
// that is away for a moment may say the same. It has displaced nothing, so another place is read.
// If many fail the write in place does too.
func (e *Engine) elsewhereFailed(q *request, o *op) {
	h := &q.heal
	o.io.Discard = false
	if h.astray++; h.astray > mayFailElsewhere(e.policy.Elsewhere) {
		e.spareFailed(q, o, ClassPath, todoReadBack)
		return
	}
	h.step, h.todo = healNone, todoReadBack
}

// mayFailElsewhere is how many reads of other places may fail besides n that go well.
func mayFailElsewhere(n int) int { return 8 + n/4 }

// readInPlace reports whether the blocks were read often enough. If not it begins the next read.
func (h *heal) readInPlace(others int) bool {
	if !h.home {
		return true
	}
	if h.looks++; h.looks >= inPlaceReads || plantedReadOnce {
		return true
	}
	h.read, h.others, h.todo = h.from, others, todoReadBack
	return false
}
