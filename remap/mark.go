package remap

import "ublkremap/metadata"

// This file marks blocks pending on the word of another tool. Nothing is read and no data moves: a
// block that is pending and lives at home is still read there, and its next write goes to the spare
// region. So a mark on a block that is well after all loses nothing. Blocks that live in the spare
// region, and lost ones, are left alone: the list is about their homes.
//
// A mark is stated for a batch of units at once, wherever they are. It has to keep clear of three
// things. A heal that has its spare unit already commits after the mark, or has done so: a mark
// behind it would be about the spare unit. A write in place is about to make a pending block
// plainly home. A relocation has read the Map, and commits what it read: what is pending or in the
// spare region now may be about to be plainly at home. The batch ends before such a unit, and waits
// for it when it is the first one. What begins later commits later, and replaces the mark.
//
// The answer comes when the marks are durable. After a crash before that some of them may be there.
// All of it can be asked for again: what is marked is left alone.

// Marking asks for blocks to be marked pending.
//
// All of it is looked at without a pause. So there should not be many more than MarkMost units.
type Marking struct {
	Ranges []metadata.BlockRange // in order, without overlap; they belong to the Arbiter until Done
	Cause  metadata.Cause
	// Done is called with the result. It must not call the Arbiter.
	Done func(MarkResult)
}

// MarkResult is how a Marking ended.
type MarkResult struct {
	Marked  uint64 // blocks that are pending now, and were not before
	Known   uint64 // blocks that were pending or lost already
	Spared  uint64 // blocks that live in the spare region
	Unknown uint64 // blocks whose marks may not be durable
	Err     error  // why it ended early: ErrTripped, ErrTableFull; else nil
}

// MarkMost is how many units one Marking should touch at most.
const MarkMost = 8192

// markBatch is how many units one commit marks at most.
const markBatch = 128

const _ = uint(metadata.MaxEntries - markBatch)

// markMaxQueue is how many Markings may wait.
const markMaxQueue = 8

type markStep uint8

const (
	markIdle   markStep = iota
	markNext            // the next batch is due, or waits for room or for a unit
	markCommit          // for the journal
)

// marker carries out Markings, one batch after the other.
type marker struct {
	step    markStep
	queue   []Marking
	now     Marking
	res     MarkResult
	at      int    // range that is next
	block   uint64 // the next block of it
	entries []metadata.Entry
	blocks  uint64 // of entries
	known   uint64 // counted when the batch is committed
	spared  uint64
	space   uint64
	room    bool // it waits for larger checkpoint slots
	early   bool // of a planted bug: Done was called
}

// Mark asks for blocks to be marked pending. It returns ErrRange, ErrTripped or ErrBusy; then Done
// is not called.
func (a *Arbiter) Mark(m Marking) error {
	end := uint64(0)
	for _, r := range m.Ranges {
		if r.Count == 0 || r.Block < end || r.Block >= a.geo.Blocks ||
			r.Count > a.geo.Blocks-r.Block {
			return ErrRange
		}
		end = r.Block + r.Count
	}
	switch {
	case len(m.Ranges) == 0:
		return ErrRange
	case a.shared.Tripped():
		return ErrTripped
	case len(a.mark.queue) == markMaxQueue:
		return ErrBusy
	}
	a.mark.queue = append(a.mark.queue, m)
	a.advance()
	return nil
}

// advance takes the steps that need no answer from outside.
func (k *marker) advance(a *Arbiter) {
	for {
		switch k.step {
		case markIdle:
			if len(k.queue) == 0 {
				return
			}
			k.now = k.queue[0]
			k.queue = append(k.queue[:0], k.queue[1:]...)
			k.res, k.at, k.block = MarkResult{}, 0, k.now.Ranges[0].Block
			k.step = markNext
		case markNext:
			if !k.next(a) {
				return
			}
		default:
			return
		}
	}
}

// next commits the next batch, or ends the Marking; false if it has to wait.
func (k *marker) next(a *Arbiter) bool {
	switch {
	case a.shared.Tripped():
		k.end(ErrTripped)
		return true
	case k.room && a.space.wanted:
		return false
	case k.at == len(k.now.Ranges):
		k.end(nil)
		return true
	}
	k.room = false
	at, block, wait := k.collect(a)
	switch {
	case wait && len(k.entries) == 0:
		return false
	case len(k.entries) == 0:
		k.count(at, block)
		return true
	case !a.mayBePending(0, k.blocks):
		k.end(ErrTableFull)
		return true
	}
	n := a.tableCost(k.entries)
	if !a.reserveSpace(n, a.spaceForHeals()) {
		if a.space.grows {
			a.space.full, a.space.wanted, k.room = false, true, true
			return false
		}
		a.space.refused++
		k.end(ErrTableFull)
		return true
	}
	k.space, k.step = n, markCommit
	k.count(at, block)
	if !a.journalCommit(commitMark, 0, k.entries) {
		k.unknown(a)
	}
	if k.early = plantedMarkEarly && k.at == len(k.now.Ranges); k.early {
		k.now.Done(MarkResult{Marked: k.res.Marked + k.blocks})
	}
	return true
}

// count notes that all before a place is dealt with.
func (k *marker) count(at int, block uint64) {
	k.at, k.block = at, block
	k.res.Known, k.res.Spared = k.res.Known+k.known, k.res.Spared+k.spared
}

// collect makes the entries of the next batch. It returns where the batch ends, and whether it ends
// before a unit that must be waited for.
func (k *marker) collect(a *Arbiter) (at int, block uint64, wait bool) {
	k.entries, k.blocks, k.known, k.spared = k.entries[:0], 0, 0, 0
	per := a.geo.BlocksPerUnit()
	time := a.drv.WallClock()
	at, block = k.at, k.block
	for at < len(k.now.Ranges) {
		r := k.now.Ranges[at]
		unit, end := block/per, r.Block+r.Count
		to := min(end, (unit+1)*per)
		listed := uint8(1<<(to-unit*per)-1) &^ uint8(1<<(block-unit*per)-1)
		info := a.m.Unit(unit)
		fresh := listed &^ (info.Mapped() | info.Pending | info.Lost)
		heals := listed & (fresh | info.Pending)
		if info.Busy || a.healing(unit)&heals != 0 && !plantedMarkLate {
			return at, block, true
		}
		if fresh != 0 {
			if !k.add(metadata.Entry{Unit: unit, Count: 1, Mask: fresh,
				State: markState(), Cause: k.now.Cause, Time: time}) {
				return at, block, false
			}
		}
		k.blocks += uint64(popcount(fresh))
		k.known += uint64(popcount(listed & (info.Pending | info.Lost)))
		k.spared += uint64(popcount(listed & info.Mapped() &^ info.Pending))
		if block = to; to == end {
			if at++; at < len(k.now.Ranges) {
				block = k.now.Ranges[at].Block
			}
		}
	}
	return at, block, false
}

// markState is what a mark says.
func markState() metadata.State {
	if plantedMarkLost {
		return metadata.StateLost
	}
	return metadata.StatePending
}

// add adds an entry, as part of the last one if it can; false if the batch is full.
func (k *marker) add(e metadata.Entry) bool {
	if n := len(k.entries); n > 0 {
		last := &k.entries[n-1]
		switch {
		case last.Unit+uint64(last.Count)-1 == e.Unit: // two ranges of one unit
			if last.Count == 1 {
				last.Mask |= e.Mask
				return true
			}
		case last.Mask == e.Mask && last.Unit+uint64(last.Count) == e.Unit:
			last.Count++
			return true
		}
	}
	if len(k.entries) == markBatch {
		return false
	}
	k.entries = append(k.entries, e)
	return true
}

// committed takes the outcome of a batch's commit.
func (k *marker) committed(a *Arbiter, durable bool) {
	if !durable {
		a.outcomeUnknown(k.entries)
		k.unknown(a)
		return
	}
	a.publish(k.entries)
	k.res.Marked += k.blocks
	k.endBatch(a)
}

// unknown ends a batch whose marks may not be durable.
func (k *marker) unknown(a *Arbiter) {
	k.res.Unknown += k.blocks
	k.endBatch(a)
}

func (k *marker) endBatch(a *Arbiter) {
	a.space.reserved -= k.space
	k.space, k.step = 0, markNext
}

func (k *marker) end(err error) {
	k.res.Err = err
	done, early := k.now.Done, k.early
	k.now, k.step, k.room, k.early = Marking{}, markIdle, false, false
	if !early {
		done(k.res)
	}
}
