package metadata

// Run is a run of exported blocks that are alike, and not plainly at home.
type Run struct {
	Block, Count uint64
	State        State  // StateHome, StateMapped or StateLost
	Pending      bool   // they cannot be read where they live
	Spare        uint64 // of StateMapped: spare unit × blocks per unit + place within the unit
	Time         uint32 // of the newest entry about them
	Cause        Cause
}

// follows reports whether n goes on where r ends, in the same state.
func (r *Run) follows(n *Run) bool {
	return r.Block+r.Count == n.Block && r.State == n.State && r.Pending == n.Pending &&
		r.Time == n.Time && r.Cause == n.Cause &&
		(r.State != StateMapped || r.Spare+r.Count == n.Spare)
}

// Layout returns the layout of the set.
func (b *Backup) Layout() *Layout { return b.layout }

// Runs calls f with the blocks that are not plainly at home, in order, as few runs as there can
// be, until it returns false.
func (b *Backup) Runs(f func(Run) bool) { b.table.runs(uint64(UnitSize/b.layout.BlockSize()), f) }

// runs is Runs for units of per blocks.
func (t *Table) runs(per uint64, f func(Run) bool) {
	var last Run
	more := true
	add := func(r Run) {
		switch {
		case last.Count > 0 && last.follows(&r):
			last.Count += r.Count
			return
		case last.Count > 0:
			more = f(last)
		}
		last = r
	}
	t.Extents(func(x Extent) bool {
		if r, ok := x.whole(per); ok {
			add(r)
			return more
		}
		for i := uint64(0); more && i < x.Count; i++ {
			for k := uint64(0); more && k < per; k++ {
				if r, ok := x.block(i, k, per); ok {
					add(r)
				}
			}
		}
		return more
	})
	if more && last.Count > 0 {
		f(last)
	}
}

// whole returns the extent as one run, if it is one.
func (x *Extent) whole(per uint64) (Run, bool) {
	full := uint8(1<<per - 1)
	r := Run{Block: x.Unit * per, Count: x.Count * per, State: StateHome, Time: x.Time,
		Cause: x.Cause, Pending: x.Pending != 0}
	ok := x.Pending == 0 || x.Pending == full
	switch {
	case x.Lost != 0:
		r.State = StateLost
		ok = ok && x.Lost == full
	case x.Mapped != 0:
		r.State, r.Spare = StateMapped, uint64(x.Spare[0])*per
		ok = ok && x.Mapped == full && sameSpare(x, 0) == full
	}
	return r, ok
}

// block returns block k of the i-th unit of the extent; false if it is plainly at home.
func (x *Extent) block(i, k, per uint64) (Run, bool) {
	r := Run{Block: (x.Unit+i)*per + k, Count: 1, State: StateHome, Time: x.Time, Cause: x.Cause,
		Pending: x.Pending>>k&1 != 0}
	switch {
	case x.Lost>>k&1 != 0:
		r.State = StateLost
	case x.Mapped>>k&1 != 0:
		r.State, r.Spare = StateMapped, (uint64(x.Spare[k])+i)*per+k
	case !r.Pending:
		return r, false
	}
	return r, true
}
