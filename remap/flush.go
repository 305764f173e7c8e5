package remap

import (
	"sync/atomic"
	"syscall"
	"time"
)

// This file is about flushes that fail. A drive, a file system or a network disk that fails a flush
// may have dropped any acknowledged write from its cache. A second flush then has nothing to write,
// and succeeds. So a failed flush is never retried. The user's next flush reports it, also if the
// failed flush was not the user's own, because the user's cached writes may be lost.

// flushes is the state that all flushes of a device share.
type flushes struct {
	failed [MaxDevices]atomic.Uint64 // how many have failed
	users  turnstile                 // flushes that the user asked for
	// flushes that make a write of ours durable, or a user's FUA write
	owners turnstile
}

// turnstile tells when all flushes have left that were inside at a given time, as a grace period
// does. A flush is counted by the phase in which it enters. A phase ends only when no flush of the
// phase before it is inside.
type turnstile struct {
	phase  atomic.Uint64
	inside [2]atomic.Int64 // by parity of the phase
}

// enter returns the phase, which leave needs.
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

// mark names all flushes that are inside now; empty reports whether they have left. They entered
// in this phase or in the one before.
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

// End takes how the flush ended: at least 0, or a negative errno. A flush that failed for lack of
// resources was not carried out; it may be retried, from Begin on.
func (f *Flushing) End(res int32) {
	all := &f.shared.flushes
	if res < 0 && Classify(res) != ClassResource {
		// It is counted before the turnstile is left: when all have left, it is visible.
		all.failed[f.device].Add(1)
		f.shared.failures.Add(1)
	}
	f.turnstile().leave(f.phase)
	f.marks = [2]uint64{all.users.mark(), all.owners.mark()}
}

// Settled reports whether it is known how all flushes ended that were under way when this one
// ended. Before that, one of them may have failed and dropped what was written, and not be counted
// yet. A user's flush does not wait for other flushes of users, which report their own failures.
func (f *Flushing) Settled() bool {
	all := &f.shared.flushes
	return all.owners.empty(f.marks[1]) && (f.user || all.users.empty(f.marks[0]))
}

// Kept reports that no flush of the device has failed since the write began. If one has, the
// write may be gone.
func (f *Flushing) Kept() bool { return f.shared.flushes.failed[f.device].Load() == f.before }

// UnreportedFlush reports whether a flush has failed that no flush of the user has reported.
func (s *Shared) UnreportedFlush() bool { return s.failures.Load() > s.reported.Load() }

// FailedFlushes returns how many flushes of a device have failed.
func (s *Shared) FailedFlushes(device uint8) uint64 { return s.flushes.failed[device].Load() }

// InheritFlush notes that a flush failed before this server began, and was not reported.
func (s *Shared) InheritFlush() { s.failures.Add(1) }

// reportFlush ends a flush of the user. reported is how many failures were reported when it began.
// It returns whether more flushes have failed since. In that case, or if the flush failed itself,
// its answer reports all failures so far.
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

// settleEvery is the interval at which an operation checks whether other flushes have ended.
const settleEvery = 100 * time.Microsecond

// flushAfter follows a write by the flush that makes it durable. They are two operations, so the
// error of each is treated as what it is. After a crash between them the write was never
// acknowledged.
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

// settle ends a flush that succeeded, once all flushes that were under way with it have ended.
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
