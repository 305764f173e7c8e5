package remap

import "ublkremap/metadata"

// This file reads free spare units, for a scrub. One that does not read, twice, is suspect: it is
// handed out only while no other one is free (suspect.go). It is not taken meanwhile. If a heal
// gets the unit while it is being read, what was read says nothing, and the heal reads back what
// it writes anyway.

// spareScrubTransfer marks the transfers of such reads.
const spareScrubTransfer = 1 << 62

// spareScrubUnits is how many spare units are read at once at most.
const spareScrubUnits = 16

// spareScrubTries is how often a unit is read before it counts as bad.
const spareScrubTries = 2

// SpareRead is how a read of free spare units ended.
type SpareRead struct {
	Next  uint32 // the unit to go on from; the number of units: there are no more
	Units uint32 // that were read
	Bad   uint32 // of them those that did not read
	Slow  uint32 // of them those that were slow
	Errno int32  // negative: why it ended early, for another reason than the medium
}

type spareScrub struct {
	done     func(SpareRead) // nil: nothing is under way
	res      SpareRead
	from, to uint32 // units that are being read
	end      uint32 // of the run
	try      int
	limit    int64 // ns: a read that takes longer is slow; 0: none is
	began    int64
	transfer uint64
	data     []byte
}

// ReadSpares reads the first run of free spare units from a unit on, and tells how that ended,
// perhaps before it returns. done must not call back into the Arbiter. Only one such read may be
// under way. Suspect units are left alone: they are known already. A unit of which a read takes
// longer than limit, in nanoseconds, twice, is suspect too; 0: none is.
func (a *Arbiter) ReadSpares(from uint32, limit int64, done func(SpareRead)) {
	s := &a.spareScrub
	if s.data == nil {
		s.data = metadata.AlignedBytes(spareScrubUnits * metadata.UnitSize)
	}
	total := uint32(a.alloc.Total())
	for from < total && !a.readableSpare(from) {
		from++
	}
	to := from
	for to < total && to-from < spareScrubUnits && a.readableSpare(to) {
		to++
	}
	if from == total {
		done(SpareRead{Next: total})
		return
	}
	_, _, inRow := a.geo.spare(uint64(from) * a.geo.BlocksPerUnit())
	to = min(to, from+uint32(inRow/a.geo.BlocksPerUnit()))
	s.limit, s.done, s.res = limit, done, SpareRead{Next: to, Units: to - from}
	s.from, s.to, s.end, s.try = from, to, to, 1
	s.read(a)
}

// readableSpare reports whether a spare unit is free and is to be read.
func (a *Arbiter) readableSpare(unit uint32) bool {
	return !a.alloc.IsUsed(unit) && a.alloc.Service(unit) == InService && !a.alloc.Suspected(unit)
}

func (s *spareScrub) read(a *Arbiter) {
	device, offset := a.geo.SpareOffset(s.from)
	s.transfer++
	s.began = a.drv.Now()
	t := &a.outTransfer
	*t = Transfer{ID: s.transfer | spareScrubTransfer, Op: OpRead, Device: device, Offset: offset,
		Data: s.data[:int(s.to-s.from)*metadata.UnitSize]}
	a.drv.Transfer(t)
}

// transferred takes the end of a read.
func (s *spareScrub) transferred(a *Arbiter, id uint64, res int32) {
	if s.done == nil || id != s.transfer|spareScrubTransfer {
		return
	}
	device, _ := a.geo.SpareOffset(s.from)
	whole := int(res) == int(s.to-s.from)*metadata.UnitSize
	slow := whole && s.limit > 0 && a.drv.Now()-s.began > s.limit
	if whole {
		a.deviceReads(device)
	}
	switch {
	case whole && !slow:
		s.from, s.try = s.to, 1
	case !whole && res >= 0 || !whole && Classify(res) != ClassMedium:
		s.res.Errno, s.res.Next = min(res, -1), s.from
		s.finish()
		return
	case s.to-s.from > 1:
		s.to, s.try = s.from+1, 1 // unit by unit
	case s.try < spareScrubTries:
		s.try++
	default:
		if a.readableSpare(s.from) {
			a.suspect(s.from)
			if slow {
				a.suspects.isSlow(s.from)
				s.res.Slow++
			} else {
				s.res.Bad++
			}
		}
		s.from, s.try = s.from+1, 1
	}
	switch {
	case s.from == s.end:
		s.finish()
		return
	case s.to <= s.from:
		s.to = s.from + 1
	}
	s.read(a)
}

func (s *spareScrub) finish() {
	done := s.done
	s.done = nil
	done(s.res)
}
