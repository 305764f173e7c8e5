package metadata

import (
	"fmt"
	"slices"
	"testing"
)

// rule answers an operation: nil carries it out.
type rule func(op Op) error

// carry goes on until nothing is left to do, one operation after the other.
func (w *world) carry(answer rule) (results []Result) {
	for {
		ops := slices.Clone(w.c.Ops())
		for _, op := range ops {
			err := answer(op)
			switch {
			case err != nil:
			case op.Read:
				_, err = w.disks[op.Device].ReadAt(op.Data, op.Offset)
			default:
				w.disks[op.Device].store(memWrite{op.Offset, slices.Clone(op.Data)}, nil)
			}
			w.c.Done(op.ID, err)
		}
		r := w.c.Results()
		results = append(results, r...)
		if len(ops) == 0 && len(r) == 0 {
			return results
		}
	}
}

func (w *world) ofMirror(op Op, i int) bool {
	m := &w.c.mirrors[i]
	return op.Device == m.device && op.Offset >= m.start && op.Offset < m.start+2*m.slot+
		int64(len(m.slots))*m.atom
}

func well(Op) error { return nil }

// errUnflushed is what a driver says of a write whose flush failed.
var errUnflushed = fmt.Errorf("/dev/sdx: %w: %w", ErrFlush, errMedium)

// TestRecordWhoseFlushFails: the record is written once more, and its place does not count as bad.
func TestRecordWhoseFlushFails(t *testing.T) {
	w := single(t, pairParams(512))
	for n := 1; n < recordTries; n++ {
		left := n
		ticket := w.must(w.c.Commit([]Entry{{Unit: uint64(n), Spare: uint32(n), Count: 1, Mask: 1,
			State: StateMapped}}))
		got := w.carry(func(op Op) error {
			if !op.Read && w.ofMirror(op, 0) && left > 0 {
				left--
				return errUnflushed
			}
			return nil
		})
		if !slices.Equal(got, []Result{{ticket, OutcomeDurable}}) {
			t.Fatalf("%d flushes failed: %v", n, got)
		}
		for _, m := range w.c.Status().Mirrors {
			if m.State != MirrorGood {
				t.Errorf("%d flushes failed: mirror %+v", n, m)
			}
		}
	}
	if len(w.c.troubledPlaces) > 0 {
		t.Errorf("places are blamed for flushes: %+v", w.c.troubledPlaces)
	}
}

// TestMirrorWhoseFlushesFail: it misses records, and says so; its place is not blamed, and
// it is not moved.
func TestMirrorWhoseFlushesFail(t *testing.T) {
	w := single(t, pairParams(512))
	start := w.c.mirrors[1].start
	for n := range uint64(3 * rebuildElsewhereAfter) {
		ticket := w.must(w.c.Commit([]Entry{{Unit: n, Spare: uint32(n), Count: 1, Mask: 1,
			State: StateMapped}}))
		got := w.carry(func(op Op) error {
			if !op.Read && w.ofMirror(op, 1) {
				return errUnflushed
			}
			return nil
		})
		if !slices.Equal(got, []Result{{ticket, OutcomeDurable}}) {
			t.Fatalf("%v", got)
		}
		if m := w.c.Status().Mirrors[1]; m.State != MirrorStale {
			t.Errorf("a mirror that has no record for certain is %s", m.State)
		}
		w.c.RetryNow()
		w.carry(well) // it is brought back
		w.must(w.c.Commit(nil))
		w.carry(well)
	}
	if m := w.c.mirrors[1]; len(w.c.troubledPlaces) > 0 || m.start != start ||
		m.state != MirrorGood {
		t.Errorf("places are blamed for flushes: %+v; the mirror is %s at %d, was at %d",
			w.c.troubledPlaces,
			m.state, m.start, start)
	}
	w.check(SeverityInfo)
}

// TestNoFlushGoesWell: if every flush fails, the outcome is unknown, as with any other failure.
func TestNoFlushGoesWell(t *testing.T) {
	w := single(t, smallParams(512, 0))
	ticket := w.must(w.c.Commit([]Entry{{Unit: 7, Spare: 7, Count: 1, Mask: 1,
		State: StateMapped}}))
	got := w.carry(func(op Op) error {
		if op.Read {
			return nil
		}
		return errUnflushed
	})
	if !slices.Equal(got, []Result{{ticket, OutcomeUnknown}}) || !w.c.Status().Suspended {
		t.Errorf("%v, suspended %v", got, w.c.Status().Suspended)
	}
}

// TestRunOpsTellsAFlush: offline, too, the error says that a flush failed.
func TestRunOpsTellsAFlush(t *testing.T) {
	w := single(t, smallParams(512, 0))
	ticket := w.must(w.c.Commit(nil))
	devs := []Device{unflushed{w.disks[0]}}
	if got := RunOps(w.c, devs, nil); !slices.Equal(got, []Result{{ticket, OutcomeUnknown}}) {
		t.Errorf("%v", got)
	}
	if len(w.c.troubledPlaces) > 0 {
		t.Errorf("places are blamed for flushes: %+v", w.c.troubledPlaces)
	}
}

// unflushed is a disk whose flushes fail.
type unflushed struct{ *memDisk }

func (unflushed) Sync() error { return errMedium }

// TestEpochNeedsTheSpareDevice: if the spare device does not take the new epoch, the backing's
// superblocks stay as they are. Otherwise the spare device would look as if it had been missing.
func TestEpochNeedsTheSpareDevice(t *testing.T) {
	plan, err := Plan(pairParamsNamed())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, seeded(t, 61), plan)
	w.start()
	before, err := Probe(w.disks[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{errMedium, errUnflushed} {
		got := w.carry(func(op Op) error {
			if op.Device == 1 && !op.Read && w.superblock(op) {
				return cause
			}
			return nil
		})
		if len(got) != 1 || got[0].Outcome == OutcomeDurable {
			t.Fatalf("%v: the start is %v", cause, got)
		}
		if after, err := Probe(w.disks[0]); err != nil || after.Epoch != before.Epoch {
			t.Errorf("%v: the backing is of epoch %d, was of %d (%v)", cause, after.Epoch,
				before.Epoch, err)
		}
		w.find(w.disks, "a start that the spare device refused")
		w.open()
	}
	if got := w.carry(well); len(got) != 1 || got[0].Outcome != OutcomeDurable {
		t.Errorf("the next start is %v", got)
	}
}

// TestCheckpointIsReadBackWhole: a checkpoint of which any page takes writes and does not
// read does not count on that mirror, whose log stays.
func TestCheckpointIsReadBackWhole(t *testing.T) {
	// of what is committed below, and of what a world begins with
	pages := uint32(4)
	for page := uint32(0); page <= pages; page++ { // 0: the header
		w := single(t, PlanParams{BackingSize: 64 << 20, BlockSize: 512, SpareBytes: 4 << 20})
		for n := range uint64(3 * MaxEntries) { // several pages of them
			e := Entry{Unit: 2 * n, Spare: uint32(n), Count: 1, Mask: 1, State: StateMapped}
			w.must(w.c.Commit([]Entry{e}))
			w.apply(w.live, e)
		}
		w.carry(well)
		before := w.c.mirrors[1].used
		ticket := w.must(w.c.Checkpoint())
		got := w.carry(func(op Op) error {
			m := &w.c.mirrors[1]
			bad := m.headerOffset(m.ckSlot)
			if page > 0 {
				bad = m.pageOffset(m.ckSlot, page-1)
			}
			if op.Read && op.Device == m.device && op.Offset <= bad &&
				bad < op.Offset+int64(len(op.Data)) {
				return errMedium
			}
			return nil
		})
		if !slices.Equal(got, []Result{{ticket, OutcomeDurable}}) {
			t.Fatalf("page %d: %v", page, got)
		}
		if m := &w.c.mirrors[1]; m.cover != (Position{}) && !m.cover.Less(w.c.durable.Position) ||
			m.used < before {
			t.Errorf("page %d of %d does not read, and its log is freed: it covers %v of %v",
				page, w.c.ck.made.pages, m.cover, w.c.durable.Position)
		}
		if m := &w.c.mirrors[0]; m.cover != w.c.durable.Position || m.used != 0 {
			t.Errorf("page %d: the other mirror covers %v of %v", page, m.cover,
				w.c.durable.Position)
		}
		if w.c.ck.made.pages != pages {
			t.Fatalf("the checkpoint has %d pages", w.c.ck.made.pages)
		}
	}
}
