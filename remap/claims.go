package remap

import "math/bits"

// This file finds claims by the units that they are about. The cost of a heal must not grow with
// the number of heals that are under way, which is at most queues × depth.
//
// A claim that holds spare units is about a run of units. So is a claim that waits. Each is in the
// list of one or two buckets. A bucket is an aligned range of units, of the smallest power of two
// that is no shorter than the run. Runs of claims that hold spare units overlap in single units
// only, so a bucket has a few of them at most. The caller checks each claim of a list again: a list
// may name claims that are about other units, but it never lacks one.

// maxClass is log2 of the longest run. No request is longer.
const maxClass = 24

// noClaim ends a list.
const noClaim = -1

// runIndex finds the claims of one kind by unit. Claim i has the nodes 2i and 2i+1.
type runIndex struct {
	heads      []int32 // by hash
	next, prev []int32 // prev of the first of a list: -2 minus its hash
	runs       []run   // of each claim; count 0: none
	classes    [maxClass + 1]int32
	n          int
	looked     uint64 // claims that each has visited since the start
}

// run is a run of units.
type run struct {
	unit  uint64
	count uint32
}

func newRunIndex(claims int) runIndex {
	x := runIndex{heads: make([]int32, 1<<bits.Len(uint(2*claims))), next: make([]int32, 2*claims),
		prev: make([]int32, 2*claims), runs: make([]run, claims)}
	for i := range x.heads {
		x.heads[i] = noClaim
	}
	return x
}

// class says which size of buckets a run is in.
func (r run) class() uint { return uint(min(bits.Len32(r.count-1), maxClass)) }

func (x *runIndex) hash(class uint, bucket uint64) uint64 {
	return (bucket<<5 | uint64(class)) * 0x9e3779b97f4a7c15 >> (64 - bits.Len(uint(len(x.heads)-1)))
}

// set says which run a claim is about. A run of no units removes the claim.
func (x *runIndex) set(claim int, r run) {
	old := x.runs[claim]
	if old == r {
		return
	}
	x.runs[claim] = r
	if old.count > 0 {
		x.n--
		x.classes[old.class()]--
		first, last := old.buckets()
		x.unlink(int32(2 * claim))
		if last > first {
			x.unlink(int32(2*claim + 1))
		}
	}
	if r.count > 0 {
		x.n++
		class := r.class()
		x.classes[class]++
		first, last := r.buckets()
		x.link(int32(2*claim), x.hash(class, first))
		if last > first {
			x.link(int32(2*claim+1), x.hash(class, last))
		}
	}
}

// buckets returns the one or two buckets that a run is in.
func (r run) buckets() (first, last uint64) {
	return r.unit >> r.class(), (r.unit + uint64(r.count) - 1) >> r.class()
}

func (x *runIndex) link(node int32, hash uint64) {
	head := x.heads[hash]
	x.next[node], x.prev[node] = head, -2-int32(hash)
	if head != noClaim {
		x.prev[head] = node
	}
	x.heads[hash] = node
}

func (x *runIndex) unlink(node int32) {
	next, prev := x.next[node], x.prev[node]
	if prev <= -2 {
		x.heads[-2-prev] = next
	} else {
		x.next[prev] = next
	}
	if next != noClaim {
		x.prev[next] = prev
	}
}

// each calls f with the claims that are about a unit, until f returns false. f may remove the claim
// that it is called with, and no other.
func (x *runIndex) each(unit uint64, f func(claim int) bool) {
	if x.n == 0 {
		return
	}
	for class, n := range x.classes {
		if n == 0 {
			continue
		}
		for node := x.heads[x.hash(uint(class), unit>>class)]; node != noClaim; {
			i := int(node / 2)
			x.looked++
			second := node&1 != 0
			node = x.next[node]
			r := x.runs[i]
			if r.count == 0 || r.class() != uint(class) || unit < r.unit ||
				unit-r.unit >= uint64(r.count) {
				continue
			}
			// Both buckets of a run may have the same hash. f is called once for it.
			if first, last := r.buckets(); second && first != last &&
				x.hash(uint(class), first) == x.hash(uint(class), last) {
				continue
			}
			if !f(i) {
				return
			}
		}
	}
}

// claimIndex is how the Arbiter finds claims.
type claimIndex struct {
	held    runIndex         // claims that hold spare units
	waiting runIndex         // claims that wait, by the units that they wait for
	tried   map[uint32]int32 // spare units that claims have tried and will free: how many claims
	known   []triedSpares    // of each claim, its part of tried
	woken   []int32          // claims that waited for something that has ended
	all     bool             // all claims that wait must check again
	live    int
	retests int
	states  []claimState // of each claim, as last seen
}

type triedSpares struct {
	n      uint8
	spares [MaxTries]uint32
}

func newClaimIndex(claims int) claimIndex {
	return claimIndex{
		held: newRunIndex(claims), waiting: newRunIndex(claims), tried: make(map[uint32]int32, 64),
		known: make([]triedSpares, claims), woken: make([]int32, 0, claims),
		states: make([]claimState, claims),
	}
}

// set changes a claim's state.
func (a *Arbiter) set(c *claim, s claimState) {
	c.state = s
	a.changed(c)
}

// changed updates the index after a change of a claim. Whatever changes a claim calls it before any
// other claim is examined. It wakes claims that waited for units that this claim no longer holds.
func (a *Arbiter) changed(c *claim) {
	x, i := &a.index, c.id
	old, held := x.held.runs[i], run{}
	if c.state == claimHeld || c.state == claimCommitting {
		held = run{c.msg.Unit, c.count}
	}
	x.held.set(i, held)
	if old.count > 0 && held != old {
		a.wake(old.unit, uint64(old.count))
	}
	waits := run{}
	if c.state == claimWaiting {
		if waits = (run{c.msg.Unit, 1}); c.msg.Kind == MsgPending {
			waits.count = c.msg.Count // whichever unit is being healed
		}
	}
	x.waiting.set(i, waits)
	if was := x.states[i]; was != c.state {
		x.live += boolInt(c.state != claimNone) - boolInt(was != claimNone)
		x.retests += boolInt(c.state == claimRetest) - boolInt(was == claimRetest)
		x.states[i] = c.state
	}
	a.changedTries(c, &x.known[i])
}

func (a *Arbiter) changedTries(c *claim, known *triedSpares) {
	now := triedSpares{}
	if c.state != claimNone && c.state != claimReporting {
		now.n, now.spares = c.msg.Tries, c.msg.Tried
	}
	if now.n == 0 && known.n == 0 {
		return
	}
	for _, spare := range known.spares[:known.n] {
		if a.index.tried[spare]--; a.index.tried[spare] == 0 {
			delete(a.index.tried, spare)
		}
	}
	for _, spare := range now.spares[:now.n] {
		a.index.tried[spare]++
	}
	*known = now
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// wake makes the claims that wait for these units check again.
func (a *Arbiter) wake(unit, count uint64) {
	x := &a.index
	for u := unit; x.waiting.n > 0 && u < unit+count; u++ {
		x.waiting.each(u, func(i int) bool {
			x.waiting.set(i, run{})
			x.woken = append(x.woken, int32(i))
			return true
		})
	}
}

// wakeAll makes all claims that wait check again.
func (a *Arbiter) wakeAll() { a.index.all = true }

// resumeWoken goes on with the claims that were woken. It returns false if there was none.
func (a *Arbiter) resumeWoken() bool {
	x := &a.index
	if x.all {
		x.all = false
		for i := range a.claims {
			if x.waiting.runs[i].count > 0 {
				x.waiting.set(i, run{})
				x.woken = append(x.woken, int32(i))
			}
		}
	}
	if len(x.woken) == 0 {
		return false
	}
	n := len(x.woken)
	for k := range n {
		c := &a.claims[x.woken[k]]
		if c.state != claimWaiting {
			continue
		}
		a.set(c, claimNone)
		if c.msg.Kind == MsgPending {
			m := c.msg
			a.pending(c.id, &m)
		} else {
			a.reserve(c)
		}
	}
	x.woken = append(x.woken[:0], x.woken[n:]...)
	return true
}
