package remap

import (
	"bytes"

	"ublkremap/metadata"
)

// This file copies a batch as one run if possible: whole units that lie in a row at both ends,
// which is how thousands of them are moved. A crash leaves the same as for a unit that is copied
// alone: the commit names the new places after all of them were read back. If anything fails the
// batch begins again, unit by unit, and each is judged by itself.

// beginBulk begins to copy the batch as one run; false if it is none.
func (v *mover) beginBulk(a *Arbiter) bool {
	if v.now.Retest || v.now.Again != AgainNot || v.now.Fill != nil || v.now.Try != TryNone ||
		v.n < 2 || v.n > len(v.data)/metadata.UnitSize {
		return false
	}
	per := a.geo.BlocksPerUnit()
	count := uint64(v.n) * per
	if _, _, limit := a.geo.home(v.first * per); limit < count {
		return false
	}
	spare, ok := v.spareRun(a)
	if !ok {
		return false
	}
	for i := range v.n {
		u := &v.units[i]
		u.spare, u.taken = spare+uint32(i), v.now.ToSpare
	}
	v.bulk, v.reading, v.verifying = true, true, false
	v.transferBulk(a, OpRead, v.now.ToSpare, v.data)
	return true
}

// spareRun returns the first of the spare units, in a row, that the batch goes to or comes from.
func (v *mover) spareRun(a *Arbiter) (first uint32, ok bool) {
	full := uint8(1<<a.geo.BlocksPerUnit() - 1)
	for i := range v.n {
		info := a.m.Unit(v.first + uint64(i))
		switch {
		case v.units[i].left != full || info.Lost|info.Pending != 0:
			return 0, false
		case v.now.ToSpare && info.N > 0:
			return 0, false
		case v.now.ToSpare:
			continue
		case info.N != 1 || info.Places[0].Mask != full:
			return 0, false
		case i == 0:
			first = info.Places[0].Spare
		case info.Places[0].Spare != first+uint32(i):
			return 0, false
		}
	}
	if v.now.ToSpare {
		var n uint32
		if first, n, ok = a.alloc.Allocate(uint32(v.n), NoHint); ok && n < uint32(v.n) {
			a.free(first, n)
			ok = false
		}
		return first, ok
	}
	_, _, limit := a.geo.spare(uint64(first) * a.geo.BlocksPerUnit())
	return first, limit >= uint64(v.n)*a.geo.BlocksPerUnit()
}

// transferBulk transfers the batch between the buffer and its homes or its spare units.
func (v *mover) transferBulk(a *Arbiter, op Op, home bool, buf []byte) {
	device, offset := a.geo.SpareOffset(v.units[0].spare)
	if home {
		device, offset = a.geo.HomeOffset(v.first * a.geo.BlocksPerUnit())
	}
	v.transfer++
	t := &a.outTransfer
	*t = Transfer{ID: v.transfer, Op: op, FUA: op == OpWrite, Device: device, Offset: offset,
		Data: buf[:v.n*metadata.UnitSize]}
	a.drv.Transfer(t)
}

// bulkTransferred takes the end of a transfer of the batch.
func (v *mover) bulkTransferred(a *Arbiter, ok bool) {
	n := v.n * metadata.UnitSize
	switch {
	case ok && v.reading:
		v.reading = false
		v.transferBulk(a, OpWrite, !v.now.ToSpare, v.data)
	case ok && !v.verifying:
		v.verifying = true
		clear(v.copy[:n])
		v.transferBulk(a, OpRead, !v.now.ToSpare, v.copy)
	case ok && bytes.Equal(v.data[:n], v.copy[:n]):
		v.bulk = false
		v.bulkMoved(a)
	default:
		v.bulk = false
		v.bulkFailed(a)
	}
}

// bulkMoved commits a batch that is where it should be.
func (v *mover) bulkMoved(a *Arbiter) {
	for i := range v.n {
		u := &v.units[i]
		u.left, u.done = 0, u.left
	}
	if v.now.ToSpare {
		device, _ := a.geo.SpareOffset(v.units[0].spare)
		a.deviceReads(device)
	}
	v.i = v.n
	v.commit(a)
}

// bulkFailed begins the batch again, unit by unit. The spare units that were meant for it
// were named by nothing, so they are free at once, and none of them is held to be bad yet.
func (v *mover) bulkFailed(a *Arbiter) {
	if v.now.ToSpare {
		a.free(v.units[0].spare, uint32(v.n))
	}
	for i := range v.n {
		v.units[i].taken = false
	}
	v.beginUnit(a)
}
