package remap

import (
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"ublkremap/metadata"
)

// entryOf returns an entry whose cause and time do not matter.
func entryOf(s metadata.State, unit uint64, count uint32, mask uint8, spare uint32) metadata.Entry {
	return metadata.Entry{State: s, Unit: unit, Count: count, Mask: mask, Spare: spare,
		Cause: metadata.CauseWrite, Time: 7}
}

func TestMapNext(t *testing.T) {
	const home, mapped, lost, pending = metadata.StateHome, metadata.StateMapped,
		metadata.StateLost, metadata.StatePending
	tests := []struct {
		name       string
		perUnit    int
		entries    []metadata.Entry
		busy       [2]uint64 // unit, count
		block, end uint64
		want       []Run
	}{
		{name: "empty", perUnit: 8, block: 0, end: 1 << 20},
		{name: "empty range", perUnit: 8, entries: []metadata.Entry{entryOf(mapped, 0, 9, 0xff, 0)},
			block: 5, end: 5},
		{name: "one block of a unit", perUnit: 8,
			entries: []metadata.Entry{entryOf(mapped, 3, 1, 0x10, 9)}, block: 0, end: 100,
			want: []Run{{Start: 28, Count: 1, Kind: KindMapped, Spare: 76}}},
		{name: "other blocks of a unit", perUnit: 8,
			entries: []metadata.Entry{entryOf(mapped, 3, 1, 0x10, 9)}, block: 29, end: 100},
		{name: "the end comes before the block", perUnit: 8,
			entries: []metadata.Entry{entryOf(mapped, 3, 1, 0x10, 9)}, block: 0, end: 28},
		{name: "clipped at both ends", perUnit: 8,
			entries: []metadata.Entry{entryOf(mapped, 0, 100, 0xff, 50)}, block: 13, end: 27,
			want: []Run{{Start: 13, Count: 14, Kind: KindMapped, Spare: 413}}},
		{name: "spares in a row over units and groups", perUnit: 8, entries: []metadata.Entry{
			entryOf(mapped, 10, 5, 0xff, 100), entryOf(mapped, 15, 20, 0xff, 105)}, block: 0,
			end:  1000,
			want: []Run{{Start: 80, Count: 200, Kind: KindMapped, Spare: 800}}},
		{name: "spares not in a row", perUnit: 1, entries: []metadata.Entry{
			entryOf(mapped, 10, 2, 1, 100), entryOf(mapped, 12, 1, 1, 103)}, block: 0, end: 1000,
			want: []Run{{Start: 10, Count: 2, Kind: KindMapped, Spare: 100},
				{Start: 12, Count: 1, Kind: KindMapped, Spare: 103}}},
		{name: "a tail, whole units, a head", perUnit: 4, entries: []metadata.Entry{
			entryOf(mapped, 1, 1, 0b1100, 20), entryOf(mapped, 2, 2, 0b1111, 21),
			entryOf(mapped, 4, 1, 0b0001, 23)}, block: 0, end: 64,
			want: []Run{{Start: 6, Count: 11, Kind: KindMapped, Spare: 82}}},
		{name: "lost between mapped", perUnit: 8, entries: []metadata.Entry{
			entryOf(mapped, 0, 1, 0xff, 5), entryOf(lost, 0, 1, 0x18, 0)}, block: 0, end: 8,
			want: []Run{{Start: 0, Count: 3, Kind: KindMapped, Spare: 40},
				{Start: 3, Count: 2, Kind: KindLost},
				{Start: 5, Count: 3, Kind: KindMapped, Spare: 45}}},
		{name: "pending where it is mapped", perUnit: 2, entries: []metadata.Entry{
			entryOf(mapped, 0, 2, 3, 5), entryOf(pending, 0, 2, 2, 0)}, block: 0, end: 4,
			want: []Run{{Start: 0, Count: 1, Kind: KindMapped, Spare: 10},
				{Start: 1, Count: 1, Kind: KindMapped | KindPending, Spare: 11},
				{Start: 2, Count: 1, Kind: KindMapped, Spare: 12},
				{Start: 3, Count: 1, Kind: KindMapped | KindPending, Spare: 13}}},
		{name: "pending at home", perUnit: 8, entries: []metadata.Entry{entryOf(pending, 7, 3, 0xff,
			0)}, block: 0, end: 8000,
			want: []Run{{Start: 56, Count: 24, Kind: KindPending}}},
		{name: "pending says nothing of a lost block", perUnit: 8, entries: []metadata.Entry{
			entryOf(lost, 7, 1, 1, 0), entryOf(pending, 7, 1, 3, 0)}, block: 0, end: 8000,
			want: []Run{{Start: 56, Count: 1, Kind: KindLost},
				{Start: 57, Count: 1, Kind: KindPending}}},
		{name: "mapped clears lost and pending", perUnit: 8, entries: []metadata.Entry{
			entryOf(lost, 7, 1, 1, 0), entryOf(pending, 7, 1, 2, 0), entryOf(mapped, 7, 1, 3, 4)},
			block: 0, end: 8000,
			want: []Run{{Start: 56, Count: 2, Kind: KindMapped, Spare: 32}}},
		{name: "home clears all", perUnit: 8, entries: []metadata.Entry{
			entryOf(lost, 7, 1, 1, 0), entryOf(pending, 7, 1, 2, 0), entryOf(mapped, 7, 1, 4, 4),
			entryOf(home, 7, 1, 7, 0)}, block: 0, end: 8000},
		{name: "two spare units", perUnit: 8, entries: []metadata.Entry{
			entryOf(mapped, 7, 1, 0xff, 4), entryOf(mapped, 7, 1, 0x08, 99)}, block: 56, end: 64,
			want: []Run{{Start: 56, Count: 3, Kind: KindMapped, Spare: 32},
				{Start: 59, Count: 1, Kind: KindMapped, Spare: 795},
				{Start: 60, Count: 4, Kind: KindMapped, Spare: 36}}},
		{name: "into a unit with two spare units", perUnit: 2, entries: []metadata.Entry{
			entryOf(mapped, 7, 2, 3, 4), entryOf(mapped, 8, 1, 2, 99)}, block: 0, end: 64,
			want: []Run{{Start: 14, Count: 3, Kind: KindMapped, Spare: 8},
				{Start: 17, Count: 1, Kind: KindMapped, Spare: 199}}},
		{name: "busy at home", perUnit: 8, busy: [2]uint64{15, 3}, block: 123, end: 1000,
			want: []Run{{Start: 123, Count: 21, Kind: KindBusy}}},
		{name: "busy where it is mapped", perUnit: 4,
			entries: []metadata.Entry{entryOf(mapped, 3, 1, 0b0110, 2)}, busy: [2]uint64{3, 1},
			block: 0, end: 100,
			want: []Run{{Start: 12, Count: 1, Kind: KindBusy},
				{Start: 13, Count: 2, Kind: KindBusy | KindMapped, Spare: 9},
				{Start: 15, Count: 1, Kind: KindBusy}}},
		{name: "from leaf to leaf", perUnit: 1, entries: []metadata.Entry{entryOf(lost, leafUnits-2,
			4, 1, 0)}, block: 0, end: 10 * leafUnits,
			want: []Run{{Start: leafUnits - 2, Count: 2, Kind: KindLost},
				{Start: leafUnits, Count: 2, Kind: KindLost}}},
		{name: "far away", perUnit: 8, entries: []metadata.Entry{entryOf(mapped, 3*dirUnits+5, 1,
			0xff, 6)}, block: 0, end: 4 * dirUnits * 8,
			want: []Run{{Start: 8 * (3*dirUnits + 5), Count: 8, Kind: KindMapped, Spare: 48}}},
		{name: "past the end", perUnit: 8, entries: []metadata.Entry{entryOf(lost, 4*dirUnits-1, 9,
			0xff, 0)}, block: 0, end: 1 << 60,
			want: []Run{{Start: 8 * (4*dirUnits - 1), Count: 8, Kind: KindLost}}},
		{name: "blocks that a unit does not have", perUnit: 2,
			entries: []metadata.Entry{entryOf(lost, 4, 1, 0xfe, 0), entryOf(lost, 9, 1, 0x80, 0)},
			block:   0, end: 100,
			want: []Run{{Start: 9, Count: 1, Kind: KindLost}}},
		{name: "entries of spare units", perUnit: 2,
			entries: []metadata.Entry{entryOf(metadata.StateRetired, 0, 1, 0, 5),
				entryOf(metadata.StateAvailable, 0, 1, 3, 5)}, block: 0, end: 100},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := NewMap(4*dirUnits, test.perUnit)
			for _, e := range test.entries {
				m.Apply(e)
			}
			m.SetBusy(test.busy[0], test.busy[1], true)
			var got []Run
			for at := test.block; ; {
				r, ok := m.Next(at, test.end)
				if !ok {
					break
				}
				got = append(got, r)
				at = r.Start + r.Count
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// TestMapEmptiesItself checks that a leaf is dropped when its last unit has gone home, and that the
// summary is cleared with it.
func TestMapEmptiesItself(t *testing.T) {
	m := NewMap(1<<22, 8)
	empty := m.Bytes()
	m.Apply(entryOf(metadata.StateMapped, 100, 5000, 0xff, 0))
	m.Apply(entryOf(metadata.StateMapped, 200, 1, 0x01, 9999))
	m.SetBusy(90, 20, true)
	if m.Bytes() <= empty {
		t.Fatal("Bytes does not see what was added")
	}
	m.Apply(entryOf(metadata.StateHome, 0, 1<<22, 0xff, 0))
	m.SetBusy(0, 1<<22, false)
	if got, want := m.Bytes(), empty+uint64(unsafe.Sizeof(dir{})); got != want {
		t.Errorf("%d bytes are left, want %d", got, want)
	}
	for i := range m.root[0].Load() {
		if s := &m.root[0].Load()[i]; s.summary.Load() != 0 || s.leaf.Load() != nil {
			t.Fatalf("leaf %d is still there", i)
		}
	}
	if c := m.Counts(); c != (Counts{}) {
		t.Errorf("counts are %+v", c)
	}
}

// TestMapEntriesCoalesce checks that a table of many consecutive units is a few entries, across
// leaves and directories, and that one call does not walk the whole table.
func TestMapEntriesCoalesce(t *testing.T) {
	m := NewMap(4*dirUnits, 8)
	m.Apply(entryOf(metadata.StateMapped, dirUnits-2000, 5000, 0xff, 77))
	// continues in spare space
	m.Apply(entryOf(metadata.StateMapped, dirUnits+3000, 200_000, 0xff, 5077))
	m.Apply(entryOf(metadata.StatePending, dirUnits+300_000, 3000, 0x0f, 0))
	defer func(n int) { entriesBudget = n }(entriesBudget)
	entriesBudget = 16
	leaves := 208_000 / leafUnits
	page := make([]metadata.Entry, 64)
	var got []metadata.Entry
	calls := 0
	for cursor, done := uint64(0), false; !done; calls++ {
		var n int
		n, cursor, done = m.Entries(cursor, page)
		got = append(got, page[:n]...)
	}
	if least := leaves / entriesBudget; calls < least {
		t.Errorf("%d calls for %d leaves, want at least %d", calls, leaves, least)
	}
	if len(got) > calls+2 {
		t.Errorf("%d entries in %d calls: %+v", len(got), calls, got)
	}
	again := NewMap(4*dirUnits, 8)
	for _, e := range got {
		again.Apply(e)
	}
	if g, w := again.Counts(), m.Counts(); g != w {
		t.Errorf("counts are %+v, want %+v", g, w)
	}
}

// TestMapEntriesApart checks that neighbours that differ in anything are not joined.
func TestMapEntriesApart(t *testing.T) {
	first := entryOf(metadata.StateMapped, 10, 1, 0xff, 50)
	for name, change := range map[string]func(e *metadata.Entry){
		"unit":  func(e *metadata.Entry) { e.Unit++ },
		"spare": func(e *metadata.Entry) { e.Spare++ },
		"mask":  func(e *metadata.Entry) { e.Mask = 1 },
		"state": func(e *metadata.Entry) { e.State, e.Spare = metadata.StateLost, 0 },
		"cause": func(e *metadata.Entry) { e.Cause++ },
		"time":  func(e *metadata.Entry) { e.Time++ },
	} {
		second := entryOf(metadata.StateMapped, 11, 1, 0xff, 51)
		change(&second)
		m := NewMap(1000, 8)
		m.Apply(first)
		m.Apply(second)
		if got := readEntries(t, m, 8); !slices.Equal(got, []metadata.Entry{first, second}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestMapEntriesUnitVanishes checks that a unit that goes home after half of it was listed removes
// nothing of the next unit.
func TestMapEntriesUnitVanishes(t *testing.T) {
	m := NewMap(1000, 8)
	m.Apply(entryOf(metadata.StateMapped, 10, 1, 0x01, 50))
	m.Apply(entryOf(metadata.StateMapped, 10, 1, 0x80, 60))
	last := entryOf(metadata.StateMapped, 12, 1, 0x01, 70)
	m.Apply(last)
	var page [1]metadata.Entry
	n, cursor, _ := m.Entries(0, page[:])
	if n != 1 || page[0].Spare != 50 {
		t.Fatalf("%d entries: %+v", n, page)
	}
	m.Apply(entryOf(metadata.StateHome, 10, 1, 0xff, 0))
	if n, _, _ = m.Entries(cursor, page[:]); n != 1 || page[0] != last {
		t.Errorf("%d entries: %+v", n, page)
	}
}

// TestMapEntriesBusyOnly checks that units that are only busy, and have no entries, do not make
// Entries return nothing before the end.
func TestMapEntriesBusyOnly(t *testing.T) {
	m := NewMap(dirUnits, 1)
	m.SetBusy(0, uint64(2*entriesBudget), true)
	m.Apply(entryOf(metadata.StateLost, dirUnits-1, 1, 1, 0))
	if got := readEntries(t, m, 4); len(got) != 1 {
		t.Errorf("entries are %+v", got)
	}
}

// TestMapForgetsHome checks that a busy unit that has gone home keeps neither cause nor time of the
// entry that took it home: no table on disk has them. The units of a whole leaf take another way
// than single units.
func TestMapForgetsHome(t *testing.T) {
	for name, count := range map[string]uint32{"one": 1, "leaf": leafUnits} {
		t.Run(name, func(t *testing.T) {
			m := NewMap(dirUnits, 8)
			m.Apply(entryOf(metadata.StatePending, leafUnits, count, 0x03, 0))
			m.SetBusy(leafUnits, uint64(count), true)
			home := entryOf(metadata.StateHome, leafUnits, count, 0x01, 0)
			home.Cause, home.Time = metadata.CauseRetest, 1700003824
			m.Apply(home)
			want := UnitInfo{Busy: true, Pending: 0x02, Cause: home.Cause, Time: home.Time}
			if got := m.Unit(leafUnits); got != want {
				t.Errorf("with a block that is pending it is %+v, want %+v", got, want)
			}
			home.Mask = 0x02
			m.Apply(home)
			if got, want := m.Unit(leafUnits), (UnitInfo{Busy: true}); got != want {
				t.Errorf("at home it is %+v, want %+v", got, want)
			}
		})
	}
}

func TestMapDoesNotAllocate(t *testing.T) {
	m := NewMap(4*dirUnits, 8)
	m.Apply(entryOf(metadata.StateMapped, 10, 3000, 0xff, 5))
	m.Apply(entryOf(metadata.StateMapped, 500, 1, 0x11, 9999)) // in two spare units
	var runs, info = 0, UnitInfo{}
	page := make([]metadata.Entry, 32)
	for name, f := range map[string]func(){
		"Next miss": func() { m.Next(1<<22, 1<<22+8) },
		"Next hit":  func() { m.Next(88, 96) },
		"Next all":  func() { eachRun(m, 0, 8*5000, func(Run) { runs++ }) },
		"Unit":      func() { info = m.Unit(500) },
		"Counts":    func() { m.Counts() },
		"Entries":   func() { m.Entries(0, page) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if runs == 0 || info.N != 2 {
		t.Errorf("%d runs, unit 500 is %+v", runs, info)
	}
}

func eachRun(m *Map, block, end uint64, f func(Run)) {
	for {
		r, ok := m.Next(block, end)
		if !ok {
			return
		}
		f(r)
		block = r.Start + r.Count
	}
}

// TestMapMemory checks that the map keeps within its memory budget.
func TestMapMemory(t *testing.T) {
	const units = 1 << 32 // 16 TiB
	b := NewBuilder(units, 8)
	if got := b.m.Bytes(); got > 1<<20 {
		t.Errorf("an empty map of 16 TiB takes %d bytes", got)
	}
	const dense = 1 << 18
	for i := uint64(0); i < dense; i++ { // no two units are consecutive in spare space
		b.Apply(entryOf(metadata.StateMapped, 5_000_000+i, 1, 0xff, uint32(i*7)))
	}
	m := b.Map()
	// The promise is 24. This is what the layout gives.
	if per := float64(m.Bytes()) / dense; per > 15 {
		t.Errorf("%.1f bytes per unit where all are remapped, want at most 15", per)
	}
	b = NewBuilder(units, 8)
	for i := uint64(0); i < dense; i++ { // four in a leaf, each in another group
		b.Apply(entryOf(metadata.StateMapped, i*leafUnits/4+i%groupUnits, 1, 0xff, uint32(i*7)))
	}
	if per := float64(b.Map().Bytes()) / dense; per > 28 {
		t.Errorf("%.1f bytes per unit where there is one per MiB, want at most 28", per)
	}
	// With an entry in each 4 GiB all directories exist.
	b = NewBuilder(units, 8)
	for u := uint64(0); u < units; u += dirUnits {
		b.Apply(entryOf(metadata.StateLost, u, 1, 1, 0))
	}
	if got := b.Map().Bytes(); got > 80<<20 {
		t.Errorf("directories of 16 TiB take %d bytes", got)
	}
}

// TestMapSparse compares a Builder and a Map that got random single units in
// random order.
func TestMapSparse(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const units = 1 << 30
	m, b := NewMap(units, 8), NewBuilder(units, 8)
	want := map[uint64]uint32{}
	for range 20_000 {
		u, spare := rnd.Uint64N(units), rnd.Uint32N(1<<22)
		e := entryOf(metadata.StateMapped, u, 1, 0xff, spare)
		m.Apply(e)
		b.Apply(e)
		want[u] = spare
	}
	for _, m := range []*Map{m, b.Map()} {
		n := 0
		eachRun(m, 0, units*8, func(r Run) {
			for i := uint64(0); i < r.Count; i += 8 {
				n++
				if spare, ok := want[(r.Start+i)/8]; !ok || uint64(spare)*8 != r.Spare+i {
					t.Fatalf("run %+v, want %d, %v", r, spare, ok)
				}
			}
		})
		if n != len(want) || m.Counts().Mapped != uint64(n) {
			t.Errorf("%d units, counted %d, want %d", n, m.Counts().Mapped, len(want))
		}
	}
}
