package remap

import (
	"bytes"
	"syscall"

	"ublkremap/metadata"
)

// This file copies the blocks of a batch, unit by unit, and reads back what it wrote.

// beginUnit goes on with the current unit's next pass, or with the next unit, and starts
// copying the first of its blocks; past the last unit it commits.
func (v *mover) beginUnit(a *Arbiter) {
	for ; v.i < v.n; v.i++ {
		for v.nextPass(a) {
			v.from, v.to, v.single, v.reads = 0, 0, false, 0
			if v.nextRun(a) {
				return
			}
		}
		v.cutShort(a)
	}
	v.askDevices(a)
}

// nextRun starts to copy the next run of the current unit's blocks, from v.to
// on; false if there is none.
func (v *mover) nextRun(a *Arbiter) bool {
	u := &v.units[v.i]
	per := uint(a.geo.BlocksPerUnit())
	v.from = v.to
	for v.from < per && u.mask>>v.from&1 == 0 {
		v.from++
	}
	if v.from == per {
		return false
	}
	v.to = v.from + 1
	end := per
	switch {
	case v.single:
		end = v.to
	case u.pass == passTryHome || u.pass == passTrySpare:
		end = min(per, a.tryRun(v.from))
	}
	for v.to < end && u.mask>>v.to&1 != 0 {
		v.to++
	}
	v.reading, v.verifying, v.tries = true, false, 1
	if v.now.Fill != nil {
		v.startFill(a, u)
		return true
	}
	home := v.now.ToSpare || u.pass == passHome || u.pass == passOld || v.testsHome()
	v.start(a, OpRead, home, v.data)
	return true
}

// place returns where the current run lives at home, or in its spare unit.
func (v *mover) place(a *Arbiter, home bool) (device uint8, offset int64) {
	if home && v.now.Again == AgainNot {
		return a.geo.HomeOffset((v.first+uint64(v.i))*a.geo.BlocksPerUnit() + uint64(v.from))
	}
	spare := v.units[v.i].spare
	if home {
		spare = v.source
	}
	device, offset = a.geo.SpareOffset(spare)
	return device, offset + int64(v.from)*int64(a.geo.BlockSize)
}

// start transfers the current run between the buffer and its home or its spare unit.
func (v *mover) start(a *Arbiter, op Op, home bool, buf []byte) {
	device, offset := v.place(a, home)
	v.transfer++
	t := &a.outTransfer
	*t = Transfer{
		ID: v.transfer, Op: op, FUA: op == OpWrite, Device: device, Offset: offset,
		Data: buf[:int(v.to-v.from)*a.geo.BlockSize],
	}
	a.drv.Transfer(t)
}

// Transferred takes the end of a Transfer: its whole length, or a negative errno.
// A short result says nothing of the medium: the driver goes on after one, and
// reports what it could not finish.
func (a *Arbiter) Transferred(id uint64, res int32) {
	v := &a.move
	switch {
	case id&ownTransfer != 0:
		a.search.transferred(a, id, res)
		a.advance()
		return
	case id&spareScrubTransfer != 0:
		a.spareScrub.transferred(a, id, res)
		a.advance()
		return
	case v.step == moveElsewhere && id == v.transfer:
		v.readThere(a, res)
		return
	case v.step != moveCopy || id != v.transfer:
		return
	}
	if v.bulk {
		v.bulkTransferred(a, int(res) == v.n*metadata.UnitSize)
		a.advance()
		return
	}
	end := v.transferred
	switch {
	case v.now.Fill != nil:
		end = v.fillTransferred
	case v.now.Try != TryNone:
		end = v.tested
	case v.units[v.i].pass != passCopy:
		end = v.retested
	}
	end(a, int(res) == int(v.to-v.from)*a.geo.BlockSize, res < 0 && Classify(res) == ClassMedium)
	a.advance()
}

// TransferUnflushed takes the end of a Transfer whose data was written and whose flush, or
// another one meanwhile, failed. That says nothing of the medium.
func (a *Arbiter) TransferUnflushed(id uint64) { a.Transferred(id, -int32(syscall.ENOLINK)) }

// transferred takes the end of a transfer of the current run. ok: it succeeded. medium: it failed
// because of the medium, and not for another reason.
func (v *mover) transferred(a *Arbiter, ok, medium bool) {
	u := &v.units[v.i]
	run := v.run()
	switch {
	case !ok && !medium:
		// The path is at fault, or resources are short: nothing is pending, no
		// spare unit is bad, and the blocks stay where they are.
		v.fail(u, run)
	case v.reading && !ok && v.to-v.from > 1:
		v.single, v.to = true, v.from
	case v.reading && !ok && v.readsAgain(a):
		return
	case v.reading && !ok:
		v.fail(u, run)
		u.bad |= run
		v.misses++
		v.askLater(a)
		v.hurries(a)
	case v.reading:
		v.reading = false
		v.start(a, OpWrite, !v.now.ToSpare, v.data)
		return
	case ok && plantedHomeUnread && v.now.Cause == metadata.CauseScrub && !v.now.ToSpare:
	case ok && plantedSlowUnread && v.now.Cause == metadata.CauseScrub && v.now.ToSpare:
	case ok && !v.verifying:
		// A place that takes a write need not hold the data. So the data is read back before the
		// old place is given up.
		v.verifying = true
		clear(v.copy)
		v.start(a, OpRead, !v.now.ToSpare, v.copy)
		return
	case ok && v.sameAgain(a):
		if v.now.ToSpare {
			device, _ := a.geo.SpareOffset(u.spare)
			a.deviceReads(device)
		}
	case v.now.ToSpare && u.done == 0:
		v.anotherSpare(a)
		return
	default:
		// It stays in its spare unit. Blocks of an earlier pass, of Again, are in the new one
		// already, so there is no other one to try.
		v.fail(u, run)
		if !v.now.ToSpare {
			a.homeFailed(v.first+uint64(v.i), run)
		}
	}
	v.goOn(a)
}

// run is the mask of the current run's blocks.
func (v *mover) run() uint8 { return uint8(1<<v.to-1) &^ uint8(1<<v.from-1) }

// sameAgain reports whether the run was read as it was read, or written, before.
func (v *mover) sameAgain(a *Arbiter) bool {
	n := int(v.to-v.from) * a.geo.BlockSize
	return bytes.Equal(v.data[:n], v.copy[:n])
}

// goOn copies the next run, or goes on with the next pass or unit.
func (v *mover) goOn(a *Arbiter) {
	if v.units[v.i].mask != 0 && v.nextRun(a) {
		return
	}
	v.beginUnit(a)
}
