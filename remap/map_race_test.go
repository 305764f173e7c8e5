package remap

import (
	"sync"
	"sync/atomic"
	"testing"

	"ublkremap/metadata"
)

// versions is an extent within one leaf. A writer takes it through numbered states. Version v is,
// by v mod 4: all home; all mapped to consecutive spare units that name the version; all lost;
// mapped with odd blocks pending.
type versions struct {
	unit      uint64
	count     uint64
	started   atomic.Uint64 // the last version that the writer began to publish
	published atomic.Uint64 // the last version that it has published
}

const versionSpan = 1 << 7 // spare units per version

func (x *versions) write(m *Map, v uint64) {
	e := metadata.Entry{Unit: x.unit, Count: uint32(x.count), Mask: 0xff, Time: uint32(v),
		Cause: metadata.CauseWrite}
	x.started.Store(v)
	switch v % 4 {
	case 0:
		e.State = metadata.StateHome
	case 1, 3:
		e.State, e.Spare = metadata.StateMapped, uint32(v*versionSpan)
	case 2:
		e.State = metadata.StateLost
	}
	m.Apply(e)
	x.published.Store(v)
}

// seen checks what a reader saw between two reads of the counters. A version between them must
// explain it, and that must not be older than low. It returns the oldest version that does.
func (x *versions) seen(t *testing.T, what string, kind Kind, spare, low, before,
	after uint64) uint64 {
	for v := max(low, before); v <= after; v++ {
		switch v % 4 {
		case 0:
			if kind == 0 {
				return v
			}
		case 1, 3:
			if kind == KindMapped && spare == v*versionSpan {
				return v
			}
		case 2:
			if kind == KindLost {
				return v
			}
		}
	}
	t.Errorf("%s of unit %d saw kind %d in spare unit %d, which is none of versions %d to %d", what,
		x.unit, kind, spare, max(low, before), after)
	return low
}

// TestMapReadersSeeWholeVersions runs readers while a writer changes extents within leaves. Each
// read must show one version as a whole. It must not be older than what had been published before
// the read, nor older than the reader's last read, by whichever method the reader reads.
func TestMapReadersSeeWholeVersions(t *testing.T) {
	const perUnit, steps = 8, 3000
	m := NewMap(2*dirUnits, perUnit)
	extents := []*versions{
		{unit: 5, count: 40},
		{unit: leafUnits - 17, count: 17},
		{unit: leafUnits + 3, count: 1},
		{unit: dirUnits + 8*leafUnits + 500, count: 100},
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for reader := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			low := make([]uint64, len(extents))
			page := make([]metadata.Entry, 256)
			for !stop.Load() && !t.Failed() {
				for i, x := range extents {
					before := x.published.Load()
					r, ok := m.Next(x.unit*perUnit, (x.unit+x.count)*perUnit)
					after := x.started.Load()
					if ok && (r.Start != x.unit*perUnit || r.Count != x.count*perUnit) {
						t.Errorf("a part of a version: %+v", r)
					}
					low[i] = x.seen(t, "Next", r.Kind, r.Spare/perUnit, low[i], before, after)

					before = x.published.Load()
					at := uint64(reader) % x.count
					u := m.Unit(x.unit + at)
					after = x.started.Load()
					var kind Kind
					var spare uint64
					switch {
					case u.Mapped() == 0xff && u.N == 1:
						kind, spare = KindMapped, uint64(u.Places[0].Spare)-at
					case u.Lost == 0xff:
						kind = KindLost
					case u.N != 0 || u.Lost != 0:
						t.Errorf("a part of a version: %+v", u)
					}
					low[i] = x.seen(t, "Unit", kind, spare, low[i], before, after)

					before = x.published.Load()
					n, _, _ := m.Entries(x.unit<<cursorPhase, page)
					after = x.started.Load()
					kind, spare = 0, 0
					for _, e := range page[:n] {
						if e.Unit != x.unit {
							continue
						}
						if uint64(e.Count) < x.count {
							t.Errorf("a part of a version: %+v", e)
						}
						if e.State == metadata.StateMapped {
							kind, spare = KindMapped, uint64(e.Spare)
						} else {
							kind = KindLost
						}
					}
					low[i] = x.seen(t, "Entries", kind, spare, low[i], before, after)
				}
				m.Counts()
			}
		}()
	}
	for v := uint64(1); v <= steps; v++ {
		for _, x := range extents {
			x.write(m, v)
		}
		// A neighbour in the same leaf appears and disappears, too.
		m.SetBusy(200, 3, v%2 == 0)
		m.Apply(metadata.Entry{State: metadata.StateMapped, Unit: 300 + v%200, Count: 1,
			Mask: uint8(v), Spare: uint32(v)})
	}
	stop.Store(true)
	wg.Wait()
}
