package sim

import (
	"fmt"
	"strings"
	"syscall"

	"ublkremap/internal/coordinator"
	"ublkremap/remap"
)

// driver is the Coordinator's driver. It carries out the Coordinator's operations on simulated
// disks.
type driver struct{ sv *server }

func (d driver) Now() int64        { return d.sv.s.now }
func (d driver) WallClock() uint32 { return d.sv.wallClock() }

func (d driver) Send(q uint16, m *remap.Message) {
	sv, s := d.sv, d.sv.s
	if s.tracing() {
		s.tracef("    to q%d: %s", q, messageString(m))
	}
	if r := s.req(int(q), m.Tag); m.Kind == remap.MsgRefused && r != nil &&
		sv.queues[q].has(r, remap.KindLost|remap.KindPending) {
		r.denied = true
	}
	if r := s.req(int(q), m.Tag); r != nil && m.Kind == remap.MsgInPlace {
		r.inPlace = unitSpan{m.Unit, uint64(m.Count)}
	} else if r != nil && m.Kind == remap.MsgReserved {
		r.inPlace = unitSpan{}
	}
	if !s.opts.Bug.toEngine(sv, int(q), m) {
		return
	}
	sv.sendEngine(int(q), *m)
}

// Issue begins a read, a write or a flush.
func (d driver) Issue(io *coordinator.IO) {
	sv, s := d.sv, d.sv.s
	x := &diskIO{d: s.disks[io.Device], off: io.Offset, n: int64(len(io.Data)), data: io.Data,
		whom: "journal"}
	switch io.Kind {
	case coordinator.Read:
		x.kind = ioRead
	case coordinator.Write:
		x.kind = ioWrite
	case coordinator.Flush:
		x.kind = ioFlush
	}
	class := uint8(classJournal)
	if io.Transfer {
		class, x.whom = classTransfer, "move"
		x.asks = io.Kind == coordinator.Read && !sameMemory(io.Data, sv.buffer)
	}
	id, transfer := io.ID, io.Transfer
	done := func(res int32) {
		if transfer {
			res = sv.transferred(id, x, res)
		} else {
			sv.noteTries(id, x, res)
		}
		sv.coord.Done(id, res)
	}
	if s.opts.Bug.operation(sv, io, x, done) || !transfer && sv.metadataIO(x, done) {
		return
	}
	s.begin(class, x, done)
}

// sameMemory reports whether one slice was cut from another, or from the same one, without a limit
// of its capacity: they end at the same byte.
func sameMemory(a, b []byte) bool {
	return &a[:cap(a)][cap(a)-1] == &b[:cap(b)][cap(b)-1]
}

// metadataIO takes an operation of the Committer. A mirror that lies may handle it.
func (sv *server) metadataIO(x *diskIO, done func(res int32)) bool {
	s := sv.s
	if x.kind == ioWrite {
		s.metaWrite()
	}
	switch {
	case !s.lie(x):
		return false
	case s.chance(1, 2):
		s.tracef("      lost: %v", x)
		x.done = x.n
		s.later(classJournal, func() { done(int32(x.n)) })
		return true
	}
	s.misdirect(x)
	return false
}

// tries is an operation of the Committer that has failed, and that is tried again.
type tries struct {
	kind ioKind
	disk uint8
	end  int64 // byte at which it ends, which is the same for the rest of it
	// since is when it first failed.
	since int64
}

// noteTries notes when an operation of the Committer is given up because its time has run out: it
// failed for lack of resources, or moved less than a block, and did so again after that time. A
// result of less than a block counts as an error of the path.
func (sv *server) noteTries(id uint64, x *diskIO, res int32) {
	s := sv.s
	now := tries{x.kind, x.d.index, x.off + x.n, s.now}
	limit := sv.retryLimits().Path
	switch {
	case x.kind == ioFlush && res >= 0, x.kind != ioFlush && int64(res) == x.n:
		delete(sv.tries, id)
		return
	case res >= 0 && int64(res) >= int64(s.plan.BlockSize()):
		return // the rest is next
	case res < 0 && remap.Classify(res) == remap.ClassResource:
		limit = sv.retryLimits().Resources
	case res < 0:
		delete(sv.tries, id)
		return
	}
	if was, ok := sv.tries[id]; ok && was.kind == now.kind && was.disk == now.disk &&
		was.end == now.end {
		now.since = was.since
	}
	if sv.tries[id] = now; s.now-now.since >= int64(limit) {
		sv.ranOut = s.step
		delete(sv.tries, id)
	}
}

// transferred takes the result of an operation of the Arbiter's.
func (sv *server) transferred(id uint64, x *diskIO, res int32) int32 {
	s := sv.s
	switch {
	case x.kind != ioFlush && res >= 0 && int64(res) < min(x.n, int64(s.plan.BlockSize())):
		sv.failedTransfer = s.step
	case x.kind != ioFlush && res < 0 && remap.Classify(res) == remap.ClassPath:
		sv.failedTransfer = s.step
	case res < 0 && remap.Classify(res) == remap.ClassResource:
		if since, ok := sv.busySince[id]; !ok {
			sv.busySince[id] = s.now
		} else if s.now-since >= int64(sv.retryLimits().Resources) {
			sv.failedTransfer = s.step
			delete(sv.busySince, id)
		}
	default:
		delete(sv.busySince, id)
	}
	if x.asks && sv.failedTransfer == s.step {
		x.d.unheard = s.step
	}
	if x.kind == ioFlush {
		return res
	}
	s.note(x, res)
	s.media.moved(s, x, res)
	sv.unreadBy(x, res)
	return s.opts.Bug.transferred(sv, x, res)
}

// Missing reports a disk that vanished, unless the disk only fails since.
func (d driver) Missing(device uint8) string {
	x := d.sv.s.disks[device]
	if x.missing == 0 || syscall.Errno(x.missing) == syscall.EIO {
		return ""
	}
	return fmt.Sprintf("disk %d is missing", device)
}

func (d driver) Alert(a remap.Alert) {
	s := d.sv.s
	st := d.sv.coord.Status().Arbiter
	s.tracef("  ALERT %v: %s", a, st.Reason)
	switch a {
	case remap.AlertTripped:
		s.stats.Trips++
		if strings.Contains(st.Reason, "budget") && !s.cfg.budget {
			s.failf("the breaker's budget was used up: %+v", st)
		}
		if strings.Contains(st.Reason, "failed, the last") && !strings.Contains(st.Reason,
			"in time") && s.cfg.sparesBad && st.Free > 180 {
			s.failf("no spare unit is found where one in 8 is well: %+v", st)
		}
		s.opts.Bug.tripped(d.sv)
	case remap.AlertResumed:
		s.stats.Resumes++
		d.sv.unknown = false
	case remap.AlertSpareFull:
		s.stats.Full++
	}
}

// FlushFailed is called for any operation that ended so; it may have been a relocation's.
func (d driver) FlushFailed(uint8, int32) { d.sv.failedTransfer = d.sv.s.step }

// NotDurable does nothing, because committer has seen the result already.
func (d driver) NotDurable(error) {}
