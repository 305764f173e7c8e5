package remap

// This file takes the reports of reads: blocks that could not be read become pending.

// deviceOf returns where the blocks of a message's first unit live.
func (a *Arbiter) deviceOf(m *Message) uint8 {
	device, _ := a.geo.HomeOffset(m.Unit * a.geo.BlocksPerUnit())
	if m.Mapped {
		device, _ = a.geo.SpareOffset(m.Spare)
	}
	return device
}

// asked goes on with a report once its device was asked. If the device is missing, its errors say
// nothing about the medium.
func (a *Arbiter) asked(i int, there bool) {
	c := &a.claims[i]
	a.set(c, claimNone)
	if !there {
		a.answer(c, MsgFailed)
		return
	}
	m := c.msg
	a.pending(i, &m)
}

// pending commits pending marks for the blocks of a report, without those that the table knows
// already. The answer says how far it got.
func (a *Arbiter) pending(i int, m *Message) {
	c := &a.claims[i]
	c.msg = *m
	now := a.trimReport(c)
	switch {
	case a.shared.Tripped(), !a.mayBePending(0, 1):
		a.answer(c, MsgFailed)
	case now == healed:
		// A heal moves the blocks to another place. If it fails, only this report says that they
		// are bad. So the report waits for the end of the heal.
		c.msg = *m
		a.set(c, claimWaiting)
	case now == relocating:
		// The blocks may move to another place. The engine tries them again after that.
		a.answer(c, MsgRetry)
	case c.msg.First == 0:
		a.answer(c, MsgCommitted) // all of it is known, or lives at another place
	case !a.spaceForReport(c):
		if a.space.grows {
			c.msg, c.count = *m, 0
			a.waitForSpace(c)
			return
		}
		a.space.refused++
		a.answer(c, MsgFailed)
	default:
		c.time = a.drv.WallClock()
		a.set(c, claimReporting)
		if !a.journalCommit(commitClaim, i, a.claimEntries(c)) {
			a.set(c, claimNone)
			a.returnSpace(c)
			a.answer(c, MsgFailed)
		}
	}
}

// trimReport reduces a report to the first consecutive units that have news for the table, as many
// as one span can state. If the first of them is being healed or moved it returns that.
func (a *Arbiter) trimReport(c *claim) unitActivity {
	m := c.msg
	full := uint8(1<<a.geo.BlocksPerUnit() - 1)
	var n uint32
	for i := range m.Count {
		mask, now := a.newlyPending(&m, m.Unit+uint64(i))
		switch {
		case n == 0 && mask == 0:
			continue
		case n == 0 && now != settled:
			c.msg.Unit, c.count = m.Unit+uint64(i), 0
			return now
		case n == 0:
			c.msg.Unit, c.msg.First = m.Unit+uint64(i), mask
		case mask == 0, now != settled, n > 1 && c.msg.Last != full:
			c.msg.Count, c.count = n, n
			return settled
		}
		c.msg.Last = mask
		n++
	}
	if n == 0 { // there is no news: the answer covers the whole report
		c.msg.First, n = 0, m.Count
	}
	c.msg.Count, c.count = n, n
	return settled
}

// unitActivity says what is under way for the blocks of a unit.
type unitActivity uint8

const (
	settled    unitActivity = iota
	relocating              // they are being relocated
	healed                  // a heal writes them to a spare unit
)

// newlyPending returns which blocks of one unit of a report are not pending or lost yet and live
// where the report says.
func (a *Arbiter) newlyPending(m *Message, unit uint64) (mask uint8, now unitActivity) {
	info := a.m.Unit(unit)
	mask = m.maskOf(unit) & uint8(1<<a.geo.BlocksPerUnit()-1) &^ (info.Pending | info.Lost)
	if !m.Mapped {
		mask &^= info.Mapped()
	} else {
		var here uint8
		for _, p := range info.Places[:info.N] {
			if p.Spare == m.Spare {
				here = p.Mask
			}
		}
		mask &= here
	}
	switch {
	case mask == 0:
	case info.Busy:
		return mask, relocating
	case mask&a.healing(unit) != 0:
		return mask, healed
	}
	return mask, settled
}

// mayBePending reports whether n more blocks may become pending, besides some that are about to.
func (a *Arbiter) mayBePending(others, n uint64) bool {
	most := a.cfg.MaxPending
	return most == 0 || a.m.Counts().Pending+others+n <= most
}
