package remap

import "slices"

// grace runs grace periods: it asks every engine to answer when all operations that the engine has
// in flight have ended. After that no queue uses an older Map. Only one grace period is under way
// at a time.
//
// A spare unit that no block lives in any more is freed only after a grace period, because a queue
// may still have a write to it in flight.
type grace struct {
	generation uint64
	waiting    int      // queues that have not answered
	deferred   []uint32 // spare units that no block lives in any more
	freeing    int      // how many of deferred the current period frees
}

// begin asks every queue. No period may be under way.
func (g *grace) begin(a *Arbiter) {
	g.generation++
	g.waiting = a.cfg.Queues
	g.freeing = len(g.deferred)
	for q := range a.cfg.Queues {
		a.out = Message{Kind: MsgGrace, Queue: uint16(q), Generation: g.generation}
		a.drv.Send(uint16(q), &a.out)
	}
}

// done takes a queue's answer.
func (g *grace) done(a *Arbiter, generation uint64) {
	if generation != g.generation || g.waiting == 0 {
		return
	}
	if g.waiting--; g.waiting > 0 {
		return
	}
	for _, spare := range g.deferred[:g.freeing] {
		a.free(spare, 1)
		if a.index.tried[spare] > 0 {
			// The message of a claim that has seen it fail was on its way, and the claim waits. It
			// frees the unit at its end; by then another unit could have it, and would lose it.
			must(a.alloc.Take(spare, 1))
		}
	}
	g.deferred = append(g.deferred[:0], g.deferred[g.freeing:]...)
	g.freeing = 0
	a.suspects.due = true
}

// deferFree frees a spare unit after the next grace period.
func (g *grace) deferFree(a *Arbiter, spare uint32) {
	must(a.alloc.DeferFree(spare, 1))
	g.deferred = append(g.deferred, spare)
}

func (g *grace) isDeferred(spare uint32) bool { return slices.Contains(g.deferred, spare) }
