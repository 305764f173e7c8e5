package sim

import (
	"ublkremap/remap"
)

// Bug is a bug that the simulator's drivers plant, to show that its checks can
// fail. There is no trace of them in the code under test.
type Bug uint8

const (
	BugNone         Bug = iota
	BugEarlyAck         // a heal is answered before its commit
	BugEarlyPublish     // a heal is committed before its data is written
	BugNoSpareFlush     // a flush leaves out the spare devices
	BugNoGrace          // grace periods end at once
	BugEarlyJournal     // the journal calls records durable before they are written
	BugCachedHeal       // heals are written without FUA
	BugShortIsWhole     // a short result counts as the whole
	BugFlushIgnored     // a flush that failed counts as good
	bugs
)

var bugNames = [...]string{
	"none", "ack before commit", "publish before data", "no flush of the spare device", "no grace period", "record called durable before it is",
	"heal without FUA", "short result taken for the whole", "failed flush ignored",
}

func (b Bug) String() string { return bugNames[b] }

// toArbiter passes a message of an engine on, unless a bug keeps it.
func (b Bug) toArbiter(sv *server, q int, m *remap.Message) bool {
	if b == BugEarlyAck && m.Kind == remap.MsgCommit {
		ack := *m
		ack.Kind = remap.MsgCommitted
		sv.sendEngine(q, ack)
	}
	return true
}

// toEngine passes a message of the arbiter on, unless a bug keeps it.
func (b Bug) toEngine(sv *server, q int, m *remap.Message) bool {
	switch {
	case b == BugEarlyAck && (m.Kind == remap.MsgCommitted && m.Count > 0 || m.Kind == remap.MsgFailed && m.Count > 0):
		return false // it has been told already
	case b == BugNoGrace && m.Kind == remap.MsgGrace:
		done := remap.Message{Kind: remap.MsgGraceDone, Queue: uint16(q), Generation: m.Generation}
		sv.receive(q, &done)
		return false
	}
	return true
}

// issue lets an operation of an engine begin, unless a bug sees to it.
func (b Bug) issue(q *queue, d *diskIO, done func(int32)) bool {
	s := q.sv.s
	class := classIO + uint8(q.index)
	switch b {
	case BugEarlyPublish:
		if (d.kind == ioWrite || d.kind == ioZero) && s.inSpare(d) && d.fua {
			s.begin(class, d, func(int32) {})
			s.later(class, func() { done(int32(d.n)) })
			return false
		}
	case BugNoSpareFlush:
		if d.kind == ioFlush && d.d.index != 0 {
			s.later(class, func() { done(0) })
			return false
		}
	case BugCachedHeal:
		if s.inSpare(d) {
			d.fua = false
		}
	case BugShortIsWhole:
		s.begin(class, d, func(res int32) {
			if res > 0 && (d.kind == ioRead || d.kind == ioWrite) {
				res = int32(d.n)
			}
			done(res)
		})
		return false
	case BugFlushIgnored:
		if d.kind == ioFlush {
			s.begin(class, d, func(int32) { done(0) })
			return false
		}
	}
	return true
}

func (s *sim) inSpare(d *diskIO) bool {
	for _, r := range s.plan.SpareRegions() {
		if r.Device == d.d.index && d.off >= r.Start && d.off < r.Start+r.Length {
			return true
		}
	}
	return false
}
