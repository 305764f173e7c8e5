package remap

import (
	"fmt"
	"math/bits"
	"syscall"
)

// This file is about blocks that live in spare units, or are pending at home: is their home well
// again? A drive may answer a read from its cache although the sector did not take the data, and a
// weak sector may hold data for a moment only. So a test has three steps, each a Move of its own,
// and a retest makes the test twice, with some time in between:
//
//  1. TryWrite copies each block from its spare unit to its home, with a flush after it. A sum of
//     the data is kept in memory (Proofs). The block stays where it lives.
//  2. A Move with Elsewhere reads other places of the disks, so that the cache holds those.
//  3. TryRead reads the homes. What does not hold the data is not tested any further.
//
// The last time TryTake comes in place of TryRead. It reads home, and then the spare unit. Only if
// home holds what TryWrite wrote there, and the spare unit still holds the same, the block moves
// home. So nothing is written after the proof. A block that was written by a user meanwhile is
// tested once more.
//
// A block that is pending at home has no other place. It is never written: its sum is that of what
// it holds, and it is no longer pending if it holds the same each time.
//
// The units of a batch are busy in each step, and no longer.
//
// Crashes: until the record of TryTake is durable, the table says that the block lives in its spare
// unit, and nobody reads its home. TryWrite changes nothing but that home. Whoever takes what a
// home holds for lack of anything better (AcceptOld) finds something newer there than before.
// After the record the block lives at home, and home was read after everything that was written to
// it. The spare unit is free after a grace period, as after every Move. Proofs is lost with the
// server; a new retest begins anew.

// TryStep is a step of the test of homes.
type TryStep uint8

const (
	TryNone  TryStep = iota
	TryWrite         // write homes
	TryRead          // read homes
	TryTake          // read homes, and move the blocks home
)

// pickTest picks the blocks of a unit's next pass.
func (v *mover) pickTest(u *moving, info *UnitInfo) {
	p := v.now.Proofs.of(v.first + uint64(v.i))
	if p == nil {
		u.left = 0
		return
	}
	u.left &= p.asked
	if gone := u.left&^(info.Mapped()|info.Pending) | u.left&info.Lost; gone != 0 {
		v.res.Skipped += uint64(popcount(gone))
		p.asked &^= gone
		u.left &^= gone
	}
	if v.now.Try != TryWrite {
		u.left &= p.written
	}
	if v.now.Try == TryTake && v.now.Proofs.apart {
		u.left &= p.before
	}
	if v.now.Try == TryTake && !plantedTestedOnce {
		// What was pending at home in the first test, and was remapped since, was not written then.
		once := u.left & info.Mapped() &^ (p.tested & p.copied)
		v.res.Changed += uint64(popcount(once))
		u.left &^= once
	}
	for _, place := range info.Places[:info.N] {
		if u.left&place.Mask != 0 && v.now.Try != TryRead {
			u.mask, u.spare, u.pass = u.left&place.Mask, place.Spare, passTest
			u.left &^= u.mask
			return
		}
	}
	u.mask, u.left, u.pass = u.left, 0, passTestHome
}

// testsHome reports whether the current pass of a test begins with a read of the home.
func (v *mover) testsHome() bool {
	return v.now.Try != TryNone && (v.now.Try != TryWrite || v.units[v.i].pass == passTestHome)
}

// tested takes the end of a transfer of the current run, in a test of homes.
func (v *mover) tested(a *Arbiter, ok, medium bool) {
	u, run := &v.units[v.i], v.run()
	p := v.now.Proofs.of(v.first + uint64(v.i))
	data := v.data[:int(v.to-v.from)*a.geo.BlockSize]
	switch {
	case !ok && medium && v.to-v.from > 1:
		v.single, v.to = true, v.from
	case !ok:
		v.testFailed(a, medium)
	case v.now.Try == TryWrite && u.pass == passTest && v.reading:
		v.reading = false
		v.start(a, OpWrite, true, v.data)
		return
	case v.now.Try == TryWrite:
		p.record(v.from, data, a.geo.BlockSize, u.pass == passTest)
		u.mask &^= run
	case v.reading && !p.holds(v.from, data, a.geo.BlockSize):
		if v.to-v.from > 1 {
			v.single, v.to = true, v.from
		} else {
			v.testFailed(a, false)
		}
	case v.now.Try == TryRead:
		u.mask &^= run
		p.tested |= run & p.copied
	case v.reading && u.pass == passTest:
		v.reading = false
		clear(v.copy)
		v.start(a, OpRead, false, v.copy)
		return
	case v.reading || v.sameAgain(a):
		// It goes home.
	case v.to-v.from > 1:
		v.single, v.to = true, v.from
	default:
		u.mask &^= run
		v.res.Changed++
	}
	v.goOn(a)
}

// testFailed ends the test of the current run.
func (v *mover) testFailed(a *Arbiter, medium bool) {
	u, run := &v.units[v.i], v.run()
	v.fail(u, run)
	v.now.Proofs.of(v.first + uint64(v.i)).asked &^= run
	a.NoLongerWell(v.first+uint64(v.i), run)
	// TryWrite begins with a read of the spare unit, TryTake ends with it.
	spare := u.pass == passTest && v.reading == (v.now.Try == TryWrite)
	if medium && spare {
		u.bad |= run // its copy does not read
		v.askLater(a)
	}
}

// tookHome ends the test of blocks that have moved home.
func (v *mover) tookHome(unit uint64, blocks uint8) {
	if v.now.Try == TryTake {
		v.now.Proofs.of(unit).asked &^= blocks
	}
}

// readElsewhere reads a place of a disk that holds nothing of what is tested, of each disk in turn.
// The places are spread over all of it, because a cache keeps what lies far apart in separate
// pieces.
func (v *mover) readElsewhere(a *Arbiter) {
	v.now.Elsewhere--
	want := uint8(v.now.Elsewhere % a.geo.Devices)
	var offset int64
	var blocks uint64
	for range elsewhereTries { // places that are known to be bad would take long
		var device uint8
		var well bool
		v.elsewhere++
		h := v.elsewhere * 0x9e37_79b9_7f4a_7c15 // spreads evenly: it is 2^64 / φ
		device, offset, blocks, well = a.geo.elsewhere(a.m, want != 0, h,
			uint64(len(v.data)/a.geo.BlockSize))
		if well && device == want {
			break
		}
		blocks = 0
	}
	if blocks == 0 {
		return // advance comes back here
	}
	v.step = moveElsewhere
	v.transfer++
	t := &a.outTransfer
	*t = Transfer{ID: v.transfer, Op: OpRead, Device: want, Offset: offset,
		Data: v.data[:int(blocks)*a.geo.BlockSize]}
	a.drv.Transfer(t)
}

// elsewhereTries is how many places are considered for one read.
const elsewhereTries = 256

// elsewhere returns a place to read, of at most so many blocks: among homes, or among spare units.
// at is any number. well is false if part of it is known to be bad.
func (g *Geometry) elsewhere(m *Map, spare bool, at, most uint64) (device uint8, offset int64,
	blocks uint64, well bool) {
	per := g.BlocksPerUnit()
	if spare {
		last := &g.Spares[len(g.Spares)-1]
		unit, _ := bits.Mul64(at, uint64(last.First+last.Count))
		device, offset, blocks = g.spare(unit * per)
		return device, offset, min(blocks, most), true
	}
	unit, _ := bits.Mul64(at, g.Units())
	device, offset, blocks = g.home(unit * per)
	blocks = min(blocks, most)
	_, known := m.Next(unit*per, unit*per+blocks)
	return device, offset, blocks, !known
}

// readThere takes the end of a read elsewhere. A read that fails displaces nothing. If its medium
// has failed another place of the disk is read, unless many have: a disk that is away for a moment
// may say the same. If the path to a disk fails the Move ends.
func (v *mover) readThere(a *Arbiter, res int32) {
	v.step = moveNext
	if res < 0 {
		v.astray++
		v.now.Elsewhere++
		if Classify(res) != ClassMedium || v.astray > mayFailElsewhere(v.places) {
			v.end(a, fmt.Errorf("%w: %w", ErrElsewhere, syscall.Errno(-res)))
		}
	}
	a.advance()
}
