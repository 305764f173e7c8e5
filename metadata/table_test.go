package metadata

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// plainTable is the model of Table: every block by itself.
type plainTable struct {
	blocks map[[2]uint64]string // (unit, block) -> state
	spares map[uint32]State
}

func (p *plainTable) apply(e Entry) {
	for i := range uint64(e.Count) {
		spare := e.Spare + uint32(i)
		switch {
		case e.State == StateAvailable:
			delete(p.spares, spare)
			continue
		case e.State.OfSpare():
			p.spares[spare] = e.State
			continue
		}
		if e.State == StateMapped && p.spares[spare] == StateQuarantined {
			delete(p.spares, spare)
		}
		for b := range uint64(8) {
			if e.Mask>>b&1 == 0 {
				continue
			}
			k := [2]uint64{e.Unit + i, b}
			switch e.State {
			case StateHome:
				delete(p.blocks, k)
			case StateMapped:
				p.blocks[k] = fmt.Sprint("mapped ", spare)
			case StateLost:
				p.blocks[k] = "lost"
			case StatePending:
				if old := p.blocks[k]; old != "lost" && (len(old) < 7 || old[:7] != "pending") {
					p.blocks[k] = "pending " + old
				}
			}
		}
	}
}

func (p *plainTable) compare(t interface{ Fatalf(string, ...any) }, have *Table, units uint64) {
	for u := range units {
		for b := range 8 {
			state, spare, pending := have.Block(u, b)
			got := ""
			switch state {
			case StateMapped:
				got = fmt.Sprint("mapped ", spare)
			case StateLost:
				got = "lost"
			}
			if pending {
				got = "pending " + got
			}
			if want := p.blocks[[2]uint64{u, uint64(b)}]; got != want {
				t.Fatalf("unit %d, block %d: %q, not %q", u, b, got, want)
			}
		}
	}
	spares := map[uint32]State{}
	have.SpareExtents(func(x SpareExtent) bool {
		for i := range x.Count {
			spares[x.Spare+i] = x.State
		}
		return true
	})
	if fmt.Sprint(spares) != fmt.Sprint(p.spares) {
		t.Fatalf("spares %v, not %v", spares, p.spares)
	}
}

func drawEntry(t *rapid.T, l *limits, time uint32) Entry {
	e := Entry{Time: time, Cause: Cause(rapid.IntRange(0, 8).Draw(t, "cause")),
		State: State(rapid.IntRange(1, 7).Draw(t, "state"))}
	e.Count = uint32(rapid.IntRange(1, 12).Draw(t, "count"))
	if e.State.OfSpare() || e.State == StateMapped {
		e.Spare = uint32(rapid.Uint64Range(0, l.spareUnits-uint64(e.Count)).Draw(t, "spare")) % 60
	}
	if !e.State.OfSpare() {
		e.Unit = rapid.Uint64Range(0, 40).Draw(t, "unit")
		e.Mask = uint8(rapid.IntRange(1, 255).Draw(t, "mask"))
	}
	return e
}

// TestTableModel compares Table with a plain model, and with itself after its
// entries were written down and read back.
func TestTableModel(t *testing.T) {
	l, err := Plan(pairParamsNamed())
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		model := &plainTable{map[[2]uint64]string{}, map[uint32]State{}}
		table := NewTable(l)
		var all []Entry
		for i := range rapid.IntRange(1, 60).Draw(t, "n") {
			e := drawEntry(t, &l.lim, uint32(i))
			all = append(all, e)
			model.apply(e)
			if err := table.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		model.compare(t, table, 60)
		again := NewTable(l)
		size := rapid.IntRange(maxPerExtent, 40).Draw(t, "page")
		buf := make([]Entry, size)
		for cursor, done := uint64(0), false; !done; {
			var n int
			if n, cursor, done = table.Entries(cursor, buf); n == 0 && !done {
				t.Fatal("no entries, and not done")
			}
			for _, e := range buf[:n] {
				if err := again.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		model.compare(t, again, 60)
		// Replaying twice changes nothing.
		for _, e := range all {
			if err := table.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		model.compare(t, table, 60)

		owner := map[string]uint64{}
		shared := false
		for k, s := range model.blocks {
			if s = trimPending(s); len(s) > 7 {
				if u, ok := owner[s]; ok && u != k[0] {
					shared = true
				}
				owner[s] = k[0]
			}
		}
		if err := table.Validate(); shared != errors.Is(err, ErrDamaged) || !shared && err != nil {
			t.Fatalf("shared: %v, validate: %v", shared, err)
		}
		if c := table.Counts(); !shared && c.SparesUsed != uint64(len(owner)) {
			t.Fatalf("%d spare units in use, counted %d", len(owner), c.SparesUsed)
		}
	})
}

func trimPending(s string) string {
	if len(s) >= 8 && s[:8] == "pending " {
		return s[8:]
	}
	return s
}

// TestTableLarge makes leaves split, in order and at random.
func TestTableLarge(t *testing.T) {
	l, err := Plan(PlanParams{BackingSize: 4 << 30, BlockSize: 512, Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	r := seeded(t, 1)
	model := &plainTable{map[[2]uint64]string{}, map[uint32]State{}}
	table := NewTable(l)
	apply := func(e Entry) {
		model.apply(e)
		if err := table.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint32(4000) {
		apply(Entry{Unit: uint64(i) * 2, Spare: i, Count: 1, Mask: 1 << (i % 8),
			State: StateMapped})
	}
	for range 3000 {
		e := Entry{Unit: uint64(r.IntN(8000)), Count: 1 + uint32(r.IntN(300)),
			Mask: uint8(1 + r.IntN(255)), State: StateHome}
		if r.IntN(2) == 0 {
			e.Count, e.State = 1+uint32(r.IntN(3)), StatePending
		}
		apply(e)
		if r.IntN(2) == 0 {
			apply(Entry{Unit: uint64(r.IntN(8000)), Spare: uint32(r.IntN(9000)), Count: 1,
				Mask: uint8(1 + r.IntN(255)), State: StateMapped})
		}
	}
	model.compare(t, table, 8400)
}

func TestInvalidEntries(t *testing.T) {
	p := pairParamsNamed()
	p.BackingSize += 512 // the last unit has one block
	l, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	last := l.Units() - 1
	for _, tc := range []struct {
		e  Entry
		ok bool
	}{
		{Entry{Unit: last, Count: 1, Mask: 1, State: StateLost}, true},
		{Entry{Unit: last, Count: 1, Mask: 2, State: StateLost}, false},
		{Entry{Unit: last, Count: 2, Mask: 1, State: StateLost}, false},
		{Entry{Unit: last + 1, Count: 1, Mask: 1, State: StateLost}, false},
		{Entry{Unit: 1<<64 - 1, Count: 2, Mask: 1, State: StateLost}, false},
		{Entry{Unit: 1, Count: 0, Mask: 1, State: StateLost}, false},
		{Entry{Unit: 1, Count: 1, Mask: 0, State: StateLost}, false},
		{Entry{Unit: 1, Count: 1, Mask: 1, State: 0}, false},
		{Entry{Unit: 1, Count: 1, Mask: 1, State: 8}, false},
		{Entry{Unit: 1, Count: 1, Mask: 1, State: StateHome, Cause: 9}, false},
		{Entry{Unit: 1, Count: 1, Mask: 1, State: StateHome, Spare: 1}, false},
		{Entry{Unit: 1, Count: 2, Mask: 1, State: StateMapped, Spare: uint32(l.SpareUnits()) - 2},
			true},
		{Entry{Unit: 1, Count: 3, Mask: 1, State: StateMapped, Spare: uint32(l.SpareUnits()) - 2},
			false},
		{Entry{Unit: 1, Count: 1<<32 - 1, Mask: 1, State: StateMapped, Spare: 1<<32 - 1}, false},
		{Entry{Count: 1, State: StateRetired, Spare: 3}, true},
		{Entry{Count: 1, State: StateRetired, Spare: 3, Mask: 1}, false},
		{Entry{Count: 1, State: StateRetired, Spare: 3, Unit: 1}, false},
	} {
		if err := l.ValidateEntry(tc.e); tc.ok != (err == nil) || err != nil &&
			!errors.Is(err, ErrInvalidEntry) {
			t.Errorf("%+v: %v", tc.e, err)
		}
	}
}
