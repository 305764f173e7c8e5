package sim

import (
	"syscall"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file judges what the table keeps of reads that failed, and whether heals were read back.

// recordBlocks notes which blocks of a read an operation has read, or failed on for their medium.
func (q *queue) recordBlocks(r *userReq, d *diskIO, res int32) {
	s := q.sv.s
	bs := int64(s.plan.BlockSize())
	switch {
	case d.readBack || d.kind != ioRead && (s.inSpare(d) || r.inPlace.count > 0):
		s.media.moved(s, d, res)
	case d.kind == ioRead && res > 0:
		for i := range int64(res) / bs {
			r.read[d.block-r.Block+uint64(i)] = true
		}
	case d.kind == ioRead && d.d.index != 0 && d.d.missing != 0: // a spare device that is away
		for i := range d.n / bs {
			q.sv.unreached[d.block+uint64(i)] = s.now
		}
	case d.kind == ioRead && res < 0 && remap.Classify(res) == remap.ClassMedium:
		if res == -int32(syscall.ENODATA) {
			r.medium |= 1 << d.d.index
		}
		for i := range d.n / bs {
			r.bad[d.block-r.Block+uint64(i)] = true
			r.badOn[d.block-r.Block+uint64(i)] = d.d.index
			q.sv.failed[d.block+uint64(i)] = s.now
		}
	}
}

// auditNotes makes sure that every block of a failed read was read, or is known as pending or lost.
// The reason: after a failed read the sender may write all of it again, and a drive accepts that
// write without reading it back. If the path has failed, this holds only for blocks that failed for
// their medium. A block that somebody writes or moves at the same time is on its way to another
// place, and is not judged.
func (q *queue) auditNotes(r *userReq, res int32) {
	s, sv := q.sv.s, q.sv
	if sv.moves > 0 || sv.lastMove >= r.begun {
		return
	}
	per := metadata.UnitSize / uint64(s.plan.BlockSize())
	for i := range uint64(r.Count) {
		b := r.Block + i
		if r.read[i] || r.path && !r.bad[i] || q.raced(r, i) || q.doubtful(r, i) {
			continue
		}
		if info := sv.restored.Map.Unit(b / per); (info.Pending|info.Lost)>>(b%per)&1 == 0 {
			s.failf("%v: %s, and block %d was not read and is not pending", r, errnoName(res), b)
		}
	}
}

// doubtful reports whether nothing shows that a block of a read failed for its medium. That is so
// if the block lives on a spare device that has vanished since the read began, and that has not
// said by ENODATA that its medium failed. Such a device may have been away when it failed. Promise:
// the answers of a device that is away do not count, so the block need not become pending.
// Blocks on other devices must, whatever that one answers. It is the same if the Arbiter asked the
// device, and the path failed meanwhile: when no read of several reaches the device, the server
// cannot tell that from a device that is away.
func (q *queue) doubtful(r *userReq, i uint64) bool {
	s := q.sv.s
	on := s.home((r.Block + i) * r.perBlock).disk
	per := metadata.UnitSize / uint64(s.plan.BlockSize())
	info := q.sv.restored.Map.Unit((r.Block + i) / per)
	if spare, ok := info.SpareOf(int((r.Block + i) % per)); ok {
		on, _ = s.plan.SpareOf(spare)
	}
	if r.bad[i] {
		on = r.badOn[i]
	}
	return on != 0 && max(s.disks[on].away, s.disks[on].unheard) >= r.begun && r.medium>>on&1 == 0
}

// notes records that blocks become pending. It reports whether a block of their unit has failed to
// be read: here, or where it lived a moment ago, if another heal came between.
func (sv *server) notes(unit uint64, mask uint8) (failed bool) {
	per := metadata.UnitSize / uint64(sv.s.plan.BlockSize())
	for b := range per {
		if mask>>b&1 != 0 {
			sv.pending[unit*per+b] = true
		}
		_, f := sv.failed[unit*per+b]
		failed = failed || f
	}
	return failed
}

// raced reports whether a block was written while it was read.
func (q *queue) raced(r *userReq, i uint64) bool {
	for k := range r.perBlock {
		if r.raced[i*r.perBlock+k] {
			return true
		}
	}
	return false
}

// heldBack reports whether a read may fail without a try: a pending block of it has failed one
// a moment ago.
func (q *queue) heldBack(r *userReq) bool {
	s := q.sv.s
	hold := int64(s.cfg.policy.FailFast)
	if hold < 0 {
		return false
	}
	for b := r.Block; b < r.Block+uint64(r.Count); b++ {
		at, failed := q.sv.failed[b]
		if away, is := q.sv.unreached[b]; is {
			at, failed = max(at, away), true
		}
		if failed && at >= r.time-hold && (q.sv.hadPending || q.sv.pending[b]) {
			return true
		}
	}
	return false
}

// crowd notes which reads of the queue are under way beside so many others that these may use all
// tags that are for tries of pending blocks, now that r is begun.
func (q *queue) crowd(r *userReq) {
	depth := q.sv.s.cfg.depth
	var reads []*userReq
	if r.Op == remap.OpRead {
		reads = append(reads, r)
	}
	for _, o := range q.sv.s.reqs[q.index] {
		if o != nil && o != r && o.Op == remap.OpRead {
			reads = append(reads, o)
		}
	}
	if others := len(reads) - 1; others >= max(depth/4, min(depth, 2)) {
		for _, o := range reads {
			o.crowded = true
		}
	}
}

// crowdedOut reports whether a read may fail without a try because others try pending blocks.
func (q *queue) crowdedOut(r *userReq) bool {
	if !r.crowded || r.internal || q.sv.s.cfg.policy.FailFast < 0 {
		return false
	}
	for b := r.Block; b < r.Block+uint64(r.Count); b++ {
		if q.sv.hadPending || q.sv.pending[b] {
			return true
		}
	}
	return false
}

// spare returns where a spare block lies.
func (s *sim) spare(block uint64) place {
	per := metadata.UnitSize / uint64(s.plan.BlockSize())
	dev, off := s.plan.SpareOf(uint32(block / per))
	return place{dev, off + int64(block%per)*int64(s.plan.BlockSize())}
}

// proved makes sure that the data of a heal was read back at the place that its commit names: in a
// spare unit, or, of a write in place, at home.
func (sv *server) proved(q int, m *remap.Message) {
	s := sv.s
	per := metadata.UnitSize / uint64(s.plan.BlockSize())
	r := s.req(q, m.Tag)
	home := r != nil && r.inPlace.has(m.Unit)
	for u := range uint64(m.Count) {
		mask := uint8(0xff)
		switch u {
		case 0:
			mask = m.First
		case uint64(m.Count) - 1:
			mask = m.Last
		}
		for b := range per {
			block := (m.Unit+u)*per + b
			switch {
			case mask>>b&1 == 0:
			case home:
				sv.provedInPlace(block)
			case !s.media.verified[s.spare((uint64(m.Spare)+u)*per+b)]:
				s.failf("q%d: %s, and block %d was not read back", q, messageString(m), block)
			}
		}
	}
	if home {
		r.inPlace = unitSpan{}
	}
}
