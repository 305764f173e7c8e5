package remap

import (
	"sync/atomic"
	"syscall"
	"time"
)

// This file is about flushes that fail. A drive, a file system or a network disk that
// fails one may have dropped any write that it had acknowledged and kept in its cache;
// a second flush has nothing left to write, and succeeds. So a failed flush is never
// tried again. Whoever asked for it, the user's next flush is told, for it is the user's
// cached writes that are gone.

// flushes is what all who flush know of each other.
type flushes struct {
	failed [MaxDevices]atomic.Uint64 // how many have failed
	users  turnstile                 // flushes that the user asked for
	// flushes that make a write of ours durable, or a user's FUA write
	owners turnstile
}

// turnstile tells when everybody has left who was inside at a given time, as grace
// periods do: who enters is counted by the phase of that moment, and a phase ends only when
// nobody of the one before is inside.
type turnstile struct {
	phase  atomic.Uint64
	inside [2]atomic.Int64 // by parity of the phase
}

// enter returns what leave is to be told.
func (t *turnstile) enter() (phase uint64) {
	for {
		phase = t.phase.Load()
		t.inside[phase&1].Add(1)
		if t.phase.Load() == phase {
			return phase
		}
		t.inside[phase&1].Add(-1)
	}
}

func (t *turnstile) leave(phase uint64) { t.inside[phase&1].Add(-1) }

// mark names all who are inside now: empty reports whether they have left. Those inside
// entered in this phase or in the one before.
func (t *turnstile) mark() uint64 { return t.phase.Load() + 2 }

func (t *turnstile) empty(mark uint64) bool {
	for {
		phase := t.phase.Load()
		if phase >= mark {
			return true
		}
		if t.inside[(phase+1)&1].Load() != 0 {
			return false
		}
		t.phase.CompareAndSwap(phase, phase+1)
	}
}

// Flushing follows a flush, and the write before it that the flush is to make durable. In
// this order: Shared.Durable, the write, Begin, the flush, End; if that was well, Settled
// until it reports true, then Kept.
type Flushing struct {
	shared *Shared
	device uint8
	user   bool   // it is all that a user's flush asked for
	before uint64 // failed flushes of the device when the write began
	phase  uint64
	marks  [2]uint64 // of users and owners, when the flush had ended
}

// Durable begins a write to a device that a flush is to make durable.
func (s *Shared) Durable(device uint8) Flushing {
	return Flushing{shared: s, device: device, before: s.flushes.failed[device].Load()}
}

// userFlush is Durable for a flush that the user asked for.
func (s *Shared) userFlush(device uint8) Flushing {
	f := s.Durable(device)
	f.user = true
	return f
}

func (f *Flushing) turnstile() *turnstile {
	if f.user {
		return &f.shared.flushes.users
	}
	return &f.shared.flushes.owners
}

// Begin is called before the flush is asked for.
func (f *Flushing) Begin() { f.phase = f.turnstile().enter() }

// End takes how the flush ended: at least 0, or a negative errno. A flush that failed for want
// of resources was not carried out; it may be tried again, from Begin on.
func (f *Flushing) End(res int32) {
	all := &f.shared.flushes
	if res < 0 && Classify(res) != ClassResource {
		// Counted before it is left: whoever finds everybody gone has seen it.
		all.failed[f.device].Add(1)
		f.shared.failures.Add(1)
	}
	f.turnstile().leave(f.phase)
	f.marks = [2]uint64{all.users.mark(), all.owners.mark()}
}

// Settled reports whether it is known how all flushes ended that were under way when this one
// ended: until then one may have failed, and dropped what was written, and nobody has seen
// it. A user's flush does not wait for those of other users, who are told themselves.
func (f *Flushing) Settled() bool {
	all := &f.shared.flushes
	return all.owners.empty(f.marks[1]) && (f.user || all.users.empty(f.marks[0]))
}

// Kept reports that no flush of the device has failed since the write began. If one has, the
// write may be gone.
func (f *Flushing) Kept() bool { return f.shared.flushes.failed[f.device].Load() == f.before }

// UnreportedFlush reports whether a flush has failed of which no flush of the user was told.
func (s *Shared) UnreportedFlush() bool { return s.failures.Load() > s.reported.Load() }

// FailedFlushes returns how many flushes of a device have failed.
func (s *Shared) FailedFlushes(device uint8) uint64 { return s.flushes.failed[device].Load() }

// InheritFlush notes that a flush failed before this server began, and was not told.
func (s *Shared) InheritFlush() { s.failures.Add(1) }

// reportFlush ends a flush of the user that began when the failures up to told were told. It
// reports whether there were others since; if so, or if the flush failed itself, they are told
// by its answer.
func (s *Shared) reportFlush(reported uint64, failed bool) bool {
	now := s.failures.Load()
	news := now > reported
	for news || failed {
		old := s.reported.Load()
		if old >= now || s.reported.CompareAndSwap(old, now) {
			break
		}
	}
	return news
}

// settleEvery is how often is asked whether another flush has ended.
const settleEvery = 100 * time.Microsecond

// flushAfter follows a write by the flush that makes it durable: they are two
// operations, so that each is judged as what it is. A crash between them finds the write
// not acknowledged.
func (e *Engine) flushAfter(o *op) {
	o.io.Op, o.io.Zero, o.io.Buffer, o.io.Offset, o.io.Length = OpFlush, false, 0, 0, 0
	o.since = 0
	o.flush.Begin()
	e.drv.Issue(&o.io)
}

// flushEnded takes the result of a flush: one of the user's, or of one that follows a write.
func (e *Engine) flushEnded(q *request, o *op, res int32) {
	o.flush.End(res)
	if res >= 0 {
		e.settle(q, o)
		return
	}
	class := Classify(res)
	if class == ClassResource {
		if e.delay(o) {
			return
		}
		class = ClassPath
	}
	e.count(q, o, res, class)
	e.flushFailed(q, o, res)
	e.release(q, o)
	e.advance(q)
}

// settle ends a flush that went well, once it is known how those ended that were under way.
func (e *Engine) settle(q *request, o *op) {
	if o.settling = !o.flush.Settled(); o.settling {
		o.due = e.drv.Now() + int64(settleEvery)
		e.delayed++
		return
	}
	if o.kind == opFlush || o.flush.Kept() {
		e.succeeded(q, o, o.count)
	} else {
		e.flushFailed(q, o, -int32(syscall.EIO))
	}
	e.release(q, o)
	e.advance(q)
}

// flushFailed takes the error of a flush. It says nothing of any block: nothing is
// isolated, remapped or retired, and the request is answered with it, once.
func (e *Engine) flushFailed(q *request, o *op, res int32) {
	switch o.kind {
	case opFlush:
	case opHeal:
		// The data may not be in the spare unit: no record may name it.
		q.heal.step = healNone
		e.sendAbout(q, MsgRelease, q.heal.spare)
	default:
		e.dirtied(o)
	}
	e.fail(q, res)
}
