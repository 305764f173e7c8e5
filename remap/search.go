package remap

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"ublkremap/metadata"
)

// This file finds out whether a device is present before its failures count as its
// medium's. A job begins after a spare unit failed, or after a block on a spare device did
// not read. It reads places of the device that should be readable. If none of several
// reads, the device is missing, and its failures say nothing about the medium. If one
// reads, and a spare unit is wanted, the job tests free spare units at places spread over
// the whole region: it writes to them and reads back. The content of a free spare unit has
// no meaning, so a crash meanwhile does no harm.

// jobKind says what a search is for.
type jobKind uint8

const (
	jobClaim   jobKind = iota // a spare unit for a claim
	jobMove                   // a spare unit for the mover
	jobPending                // whether a device is present on which a claim calls a block pending
	jobMoved                  // the same, for the mover
	jobBreaker                // why every spare unit that a heal tried failed
	jobTest                   // whether a spare unit that failed fails again
)

// finding is what came of a job.
type finding uint8

const (
	foundSpare     finding = iota // a good spare unit
	foundDevice                   // the device answers
	foundNoDevice                 // it does not
	foundPathError                // an error that says nothing of the medium came between
)

type job struct {
	kind   jobKind
	claim  int
	device uint8
	spare  uint32 // of jobTest: taken
}

type searchStep uint8

const (
	searchIdle searchStep = iota
	searchAsking
	searchWriting
	searchReading
)

const (
	// maxSearchTries is how many spare units one search tests. After minSearchTries it ends when
	// it has taken as long as a request may take.
	maxSearchTries, minSearchTries = 128, 8
	// maxReads is how many places are read to see whether a device is present, while there is
	// time.
	maxReads = 24
	// minReads is how many of them are read even when the time is up: one bad sector may take
	// a drive longer than that, and says nothing about the others.
	minReads  = 4
	homeReads = 4 // of them where blocks are at home on the backing disk
	// maxPathErrors is how many spare units may fail for another reason than their medium.
	maxPathErrors = 4
	// ownTransfer marks the transfers of a search.
	ownTransfer = 1 << 63
)

// search does one job after the other.
type search struct {
	step       searchStep
	jobs       []job
	now        job
	began      int64
	asked      int    // places that were read
	failed     bool   // one of them for its medium, or so it seems
	last       bool   // it asks for the last time: what it tried failed
	spare      uint32 // that is being tried
	tried      int
	pathErrors int    // of them those that failed for another reason than their medium
	tries      uint64 // of all searches: where the next one begins
	salt       uint64 // of what is written
	transfer   uint64
	data       []byte
}

func (s *search) init(claims int) {
	s.jobs = make([]job, 0, claims+8)
	s.data = metadata.AlignedBytes(metadata.UnitSize)
}

// has reports whether a spare unit is taken because it is being tried, or will be. A claim or a
// move that has tried it before must not free it then.
func (s *search) has(spare uint32) bool {
	for i := range s.jobs {
		if s.jobs[i].kind == jobTest && s.jobs[i].spare == spare {
			return true
		}
	}
	switch {
	case s.step == searchIdle:
		return false
	case s.now.kind == jobTest:
		return s.now.spare == spare
	}
	return s.step != searchAsking && s.spare == spare
}

// taken counts the spare units that are taken only because they are being tried, or will be.
func (s *search) taken() (n uint64) {
	for i := range s.jobs {
		if s.jobs[i].kind == jobTest {
			n++
		}
	}
	if s.step != searchIdle && (s.now.kind == jobTest || s.step != searchAsking) {
		n++
	}
	return n
}

// add queues a job. Jobs of internal requests come after all others.
func (s *search) add(a *Arbiter, j job) {
	at := len(s.jobs)
	for at > 0 && !a.ofInternal(j) && a.ofInternal(s.jobs[at-1]) {
		at--
	}
	s.jobs = slices.Insert(s.jobs, at, j)
	s.advance(a)
}

// ofInternal reports whether a job is for an internal request.
func (a *Arbiter) ofInternal(j job) bool {
	return j.kind == jobPending &&
		j.claim%(a.cfg.Depth+a.cfg.InternalTags) >= a.cfg.Depth
}

// advance begins the next job.
func (s *search) advance(a *Arbiter) {
	if s.step != searchIdle || len(s.jobs) == 0 {
		return
	}
	s.now = s.jobs[0]
	s.jobs = append(s.jobs[:0], s.jobs[1:]...)
	s.began, s.tried, s.pathErrors = a.drv.Now(), 0, 0
	if s.now.kind == jobTest {
		s.try(a, s.now.spare)
		return
	}
	s.ask(a, false)
}

// ask finds out whether the device is there.
func (s *search) ask(a *Arbiter, last bool) {
	s.step, s.asked, s.last, s.failed = searchAsking, 0, last, false
	s.askNext(a)
}

func (s *search) askNext(a *Arbiter) {
	offset, ok := a.knownPlace(s.now.device, s.asked)
	if s.asked++; !ok {
		s.answer(a, false)
		return
	}
	s.start(a, OpRead, s.now.device, offset)
}

// knownPlace returns the i-th place of a device that should read.
func (a *Arbiter) knownPlace(device uint8, i int) (offset int64, ok bool) {
	var known []int64
	if int(device) < len(a.geo.Known) {
		known = a.geo.Known[device]
	}
	if i < len(known) {
		return known[i], true
	}
	if i -= len(known); device == 0 && i < homeReads {
		block := a.geo.HeadBlocks + (a.geo.Blocks-a.geo.HeadBlocks)/homeReads*uint64(i)
		return int64(block/a.geo.BlocksPerUnit()) * metadata.UnitSize, true
	}
	for _, e := range a.geo.Spares {
		if e.Device != device {
			continue
		}
		for try := range uint64(maxReads) {
			at, _ := bits.Mul64(try*0x9e3779b97f4a7c15, uint64(e.Count))
			unit := e.First + uint32(at)
			if a.alloc.Service(unit) != InService || a.alloc.Suspected(unit) {
				continue
			}
			if i == 0 {
				_, offset = a.geo.SpareOffset(unit)
				return offset, true
			}
			i--
		}
	}
	return 0, false
}

func (s *search) start(a *Arbiter, op Op, device uint8, offset int64) {
	s.transfer++
	t := &a.outTransfer
	*t = Transfer{ID: s.transfer | ownTransfer, Op: op, FUA: op == OpWrite, Device: device,
		Offset: offset, Data: s.data}
	a.drv.Transfer(t)
}

// transferred takes the end of a transfer.
func (s *search) transferred(a *Arbiter, id uint64, res int32) {
	if s.step == searchIdle || id != s.transfer|ownTransfer {
		return
	}
	ok := res == metadata.UnitSize
	medium := res < 0 && Classify(res) == ClassMedium
	if s.step == searchAsking {
		s.failed = s.failed || medium
		switch {
		case ok:
			a.deviceReads(s.now.device)
			s.answer(a, true)
		case s.asked < minReads || s.asked < maxReads && !s.outOfTime(a):
			s.askNext(a)
		default:
			s.answer(a, false)
		}
		return
	}
	device, offset := a.geo.SpareOffset(s.spare)
	switch {
	case !ok && !medium && s.now.kind == jobTest:
		s.end(a, foundPathError)
	case !ok && !medium:
		// The path is at fault, or resources are short: that says nothing of the unit.
		a.free(s.spare, 1)
		if s.pathErrors++; s.pathErrors == maxPathErrors {
			s.end(a, foundPathError)
			return
		}
		s.tryNext(a)
	case ok && s.step == searchWriting:
		s.step = searchReading
		s.start(a, OpRead, device, offset)
	case ok && s.holds():
		a.deviceReads(device)
		a.unsuspect(s.spare)
		s.end(a, foundSpare)
	case s.now.kind == jobTest:
		s.ask(a, true)
	default:
		a.suspect(s.spare)
		a.free(s.spare, 1)
		s.tryNext(a)
	}
}

// answer goes on once it is known whether the device is there.
func (s *search) answer(a *Arbiter, there bool) {
	switch {
	case !there && !s.failed:
		s.end(a, foundPathError)
	case !there:
		a.deviceSilent(s.now.device)
		s.end(a, foundNoDevice)
	case !s.last && (s.now.kind == jobClaim || s.now.kind == jobMove):
		s.tryNext(a)
	default:
		s.end(a, foundDevice)
	}
}

// outOfTime reports whether the time is up that a request may take.
func (s *search) outOfTime(a *Arbiter) bool {
	return a.drv.Now()-s.began > giveUp*int64(a.cfg.Policy.IsolateFor)
}

// tryNext tries the next free spare unit, or gives up.
func (s *search) tryNext(a *Arbiter) {
	if a.shared.Tripped() {
		// It has opened for another reason. If it closes before this search ends, what was tried so
		// far is no reason to open it again.
		s.end(a, foundPathError)
		return
	}
	var ok bool
	if s.tried < maxSearchTries && (s.tried < minSearchTries || !s.outOfTime(a)) {
		s.tries++
		s.spare, ok = a.alloc.AllocateSpread(s.tries)
	}
	if !ok {
		s.ask(a, true)
		return
	}
	s.tried++
	s.try(a, s.spare)
}

// try writes to a spare unit, which is taken, and reads it back.
func (s *search) try(a *Arbiter, spare uint32) {
	s.spare, s.step = spare, searchWriting
	s.salt++
	for i := 0; i < len(s.data); i += 8 {
		binary.LittleEndian.PutUint64(s.data[i:], s.word(i))
	}
	device, offset := a.geo.SpareOffset(s.spare)
	s.start(a, OpWrite, device, offset)
}

// word is what is written to byte i of a spare unit that is tried: it differs from what lay there
// before.
func (s *search) word(i int) uint64 { return (s.salt<<12 | uint64(i)) * 0x9e3779b97f4a7c15 }

// holds reports whether what was read back is what was written.
func (s *search) holds() bool {
	for i := 0; i < len(s.data); i += 8 {
		if binary.LittleEndian.Uint64(s.data[i:]) != s.word(i) {
			return false
		}
	}
	return true
}

// end tells what came of the job.
func (s *search) end(a *Arbiter, f finding) {
	s.step = searchIdle
	j := s.now
	if f == foundNoDevice || f == foundPathError {
		a.checkDevice(j.device)
	}
	switch j.kind {
	case jobMove:
		a.move.found(a, s.spare, f == foundSpare)
	case jobMoved:
		a.move.asked(a, j.device, f == foundDevice)
	case jobPending:
		a.asked(j.claim, f == foundDevice)
	case jobTest:
		a.suspectTested(s.spare, f == foundSpare, f == foundDevice)
	case jobBreaker:
		a.tripSpares(j.device, f, 0)
	case jobClaim:
		c := &a.claims[j.claim]
		if f == foundSpare {
			c.tested, c.spare = true, s.spare
			a.reserve(c)
			break
		}
		a.refuse(c, MsgRefused)
		a.tripSpares(j.device, f, s.tried)
	}
	s.advance(a)
}

// tripSpares opens the breaker because no spare unit took data.
func (a *Arbiter) tripSpares(device uint8, f finding, tried int) {
	switch {
	case f == foundPathError: // as any other error of the path
	case f == foundNoDevice:
		a.tripFor(TripPath, device, "every spare unit that was tried failed, and so does what "+
			"could be read before")
	case tried > 0 && a.search.outOfTime(a) && tried < maxSearchTries:
		a.tripFor(TripMedia, device, fmt.Sprintf("no spare unit was found in time that holds "+
			"data, the last %d failed in a row; other places can be read", tried))
	case tried > 0:
		a.tripFor(TripMedia, device, fmt.Sprintf("every spare unit that was tried failed, the "+
			"last %d of them in a row; other places can be read", tried))
	default:
		a.tripFor(TripMedia, device, "every spare unit that was tried failed; other places can "+
			"be read")
	}
}
