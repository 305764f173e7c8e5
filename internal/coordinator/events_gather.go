package coordinator

import (
	"math"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file notes operations of which each consists of many requests, such as a fill or an import:
// once each, when no further request has come for a while. So an operation whose client was killed
// is noted too.

// gatherFor is how long no further request of an operation must have come.
const gatherFor = int64(5 * time.Second)

// gathered is what is not noted yet of an operation.
type gathered struct {
	done   metadata.EventDone // EventNothing: there is none
	count  uint64             // blocks that it has changed
	of     uint64             // blocks that it was about
	first  uint64             // block
	zeroes bool               // of a fill: all of its data are zeroes
	due    int64
}

// gather adds a part of an operation. The caller calls pump.
func (c *Coordinator) gather(done metadata.EventDone, first, count, of uint64, zeroes bool) {
	if c.recorder == nil {
		return
	}
	g := &c.gathered
	if g.done != done {
		c.noteGathered()
		*g = gathered{done: done, first: first, zeroes: true}
	}
	g.count, g.of, g.zeroes = g.count+count, g.of+of, g.zeroes && zeroes
	g.due = c.drv.Now() + gatherFor
}

// noteGathered notes the operation.
func (c *Coordinator) noteGathered() {
	g := c.gathered
	c.gathered = gathered{}
	e := metadata.Event{Kind: metadata.EventFill, Done: g.done, HasBlock: true, Block: g.first,
		Count: uint32(min(g.count, math.MaxUint32)), Detail: g.of}
	switch {
	case g.done == metadata.EventNothing:
		return
	case g.done == metadata.EventImported:
		e.Kind = metadata.EventImport
	case g.zeroes:
		e.Done = metadata.EventZeroed
	}
	c.record(&e)
}

// gatherMark adds an import of a list, or a part of one.
func (c *Coordinator) gatherMark(ranges []metadata.BlockRange, r *remap.MarkResult) {
	if len(ranges) == 0 {
		return
	}
	c.gather(metadata.EventImported, ranges[0].Block, r.Marked, r.Marked+r.Known+r.Spared, false)
}

// gatherFill adds a part of a fill.
func (c *Coordinator) gatherFill(m *remap.Move, zeroes bool, r *remap.MoveResult) {
	bad := uint64(0)
	for _, o := range m.Fill.Outcome {
		if o != remap.FillNotBad && o != remap.FillChanged {
			bad++
		}
	}
	c.gather(metadata.EventFilled, m.Block, r.Moved, bad, zeroes)
}

// allZero reports whether data is nothing but zeroes.
func allZero(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}
