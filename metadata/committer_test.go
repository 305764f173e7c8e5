package metadata

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// TestEveryCut takes a short life of a set - a start, commits, a checkpoint,
// another start - and cuts it between any two steps, with every write that is
// under way lost, done, or torn in either half, in all combinations.
func TestEveryCut(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    PlanParams
	}{{"alone", smallParams(512, 0)}, {"pair", pairParams(512)}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, seeded(t, 31), tc.p)
			cuts := 0
			// With three mirrors and a checkpoint it is a sample.
			try := func() {
				w.eachCut(64, &cuts, func(disks []*memDisk, what string) { w.find(disks, what) })
			}
			drain := func() { w.drain(try) }
			for range 2 {
				drain()
				for i := range 12 {
					w.commit()
					if i == 6 {
						if _, err := w.c.Checkpoint(); err != nil {
							t.Fatal(err)
						}
					}
					if i%3 > 0 {
						drain()
					}
				}
				drain()
				w.power()
			}
			w.settle()
			w.check("")
			t.Logf("%d cuts", cuts)
		})
	}
}

// single is a world that is open and idle.
func single(t testing.TB, p PlanParams) *world {
	w := newWorld(t, seeded(t, 41), p)
	w.settle()
	return w
}

func (w *world) must(t Ticket, err error) Ticket {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func TestGroupCommit(t *testing.T) {
	w := single(t, smallParams(512, 0))
	before := w.c.durable.Sequence
	w.must(w.c.Commit(w.tx(1)))
	first := slices.Clone(w.c.Ops())
	var want []Result
	for range 50 {
		want = append(want, Result{w.must(w.c.Commit(w.tx(3))), OutcomeDurable})
	}
	if ops := w.c.Ops(); len(ops) != 0 {
		t.Fatal("a second record is under way")
	}
	for _, op := range first {
		if !op.FUA {
			t.Error("a record without FUA")
		}
		w.disks[op.Device].store(memWrite{op.Offset, op.Data}, nil)
		w.c.Done(op.ID, nil)
		w.c.Done(op.ID, nil) // a second time is ignored
	}
	got := RunOps(w.c, devices(w.disks), nil)
	if !slices.Equal(got[1:], want) {
		t.Errorf("%v", got)
	}
	if n := w.c.durable.Sequence - before; n != 2 {
		t.Errorf("%d records for 51 transactions", n)
	}
	w.check("")
}

func TestCommitRefuses(t *testing.T) {
	w := newWorld(t, seeded(t, 42), smallParams(512, 0))
	if _, err := w.c.Commit(nil); !errors.Is(err, ErrNotOpen) {
		t.Error(err)
	}
	if _, err := w.c.Open(1); !errors.Is(err, ErrNotOpen) {
		t.Error("opened twice:", err)
	}
	w.settle()
	if _, err := w.c.Commit(make([]Entry, MaxEntries+1)); !errors.Is(err, ErrTxTooLarge) {
		t.Error(err)
	}
	if _, err := w.c.Commit([]Entry{{}}); !errors.Is(err, ErrInvalidEntry) {
		t.Error(err)
	}
	if _, err := w.c.Resume(nil); !errors.Is(err, ErrNotOpen) {
		t.Error(err)
	}
	if !w.c.Idle() {
		t.Error("something was taken")
	}
	w.check("")
}

// TestUnknown: after an unknown outcome nothing is taken until Resume, transactions that waited are
// dropped, and the unknown one is void in the end, although one mirror has it.
func TestUnknown(t *testing.T) {
	w := single(t, smallParams(512, 0))
	unknown := Entry{Unit: 7, Spare: 7, Count: 1, Mask: 1, State: StateMapped}
	a := w.must(w.c.Commit([]Entry{unknown}))
	ops := slices.Clone(w.c.Ops())
	b := w.must(w.c.Commit([]Entry{{Unit: 8, Spare: 8, Count: 1, Mask: 1, State: StateMapped}}))
	for len(ops) > 0 {
		for _, op := range ops {
			w.disks[0].store(memWrite{op.Offset, op.Data}, nil) // it is there, but the disk says no
			w.c.Done(op.ID, errMedium)
		}
		ops = slices.Clone(w.c.Ops())
	}
	if got := w.c.Results(); !slices.Equal(got, []Result{{a, OutcomeUnknown},
		{b, OutcomeDropped}}) {
		t.Fatalf("%v", got)
	}
	if _, err := w.c.Commit(nil); !errors.Is(err, ErrSuspended) || !w.c.Status().Suspended {
		t.Fatal(err)
	}
	img, err := Load(devices(w.disks))
	if err != nil {
		t.Fatal(err)
	}
	tab, err := img.Table()
	if err != nil {
		t.Fatal(err)
	}
	if s, _, _ := tab.Block(7, 0); s != StateMapped {
		t.Error("the record is on both mirrors, yet not found")
	}
	// 400 entries: three records.
	var restate []Entry
	for i := range uint64(400) {
		restate = append(restate, Entry{Unit: 1000 + i, Count: 1, Mask: 1, State: StatePending})
	}
	restate = append(restate, Entry{Spare: 7, Count: 1, State: StateQuarantined})
	r := w.must(w.c.Resume(restate))
	c := w.must(w.c.Commit([]Entry{{Unit: 9, Spare: 9, Count: 1, Mask: 1, State: StateMapped}}))
	if got := RunOps(w.c, devices(w.disks), nil); !slices.Equal(got, []Result{{r, OutcomeDurable},
		{c, OutcomeDurable}}) {
		t.Fatalf("%v", got)
	}
	img, err = Load(devices(w.disks))
	if err != nil {
		t.Fatal(err)
	}
	if tab, err = img.Table(); err != nil {
		t.Fatal(err)
	}
	if s, _, _ := tab.Block(7, 0); s == StateMapped {
		t.Error("the unknown record was not voided")
	}
	if s, _, _ := tab.Block(9, 0); s != StateMapped {
		t.Error("the commit behind the Resume is missing")
	}
	if n := tab.Counts(); n.Pending != 400+w.table(w.base).Counts().Pending {
		t.Errorf("%+v", n)
	}
	w.check(SeverityInfo)
}

// TestLateRecord: a record of a start that failed, or of a server that is
// dead, turns up after others have gone on.
func TestLateRecord(t *testing.T) {
	w := single(t, smallParams(512, 0))
	w.commits(5)
	// The dead server's last record, and the epoch record of a start that
	// failed: none of them reached the disk in time.
	var late []Op
	w.must(w.c.Commit([]Entry{{Unit: 50, Spare: 150, Count: 1, Mask: 1, State: StateMapped}}))
	keep := func() {
		for _, op := range w.c.Ops() {
			op.Data = slices.Clone(op.Data)
			late = append(late, op)
		}
	}
	keep()
	w.start()
	for w.c.phase != phaseEpoch || !w.c.rec.active() {
		w.take()
		if w.c.rec.active() {
			break
		}
		w.finish()
	}
	for _, op := range w.flight {
		op.Data = slices.Clone(op.Data)
		late = append(late, op)
	}
	w.start()
	w.settle()
	w.commits(5)
	if len(late) != 4 {
		t.Fatalf("%d late writes", len(late))
	}
	for _, op := range late {
		// Something else may be in its slot by now, so it goes to a free slot instead.
		m := &w.c.mirrors[0]
		slot, ok := m.nextFree()
		if !ok {
			t.Fatal("full")
		}
		w.disks[0].store(memWrite{m.logOffset(slot), op.Data}, nil)
	}
	w.find(w.disks, "late records")
	w.check(SeverityInfo)
	w.start()
	w.settle()
	w.commit()
	w.settle()
	w.find(w.disks, "late records, after a start")
	w.check(SeverityInfo)
}

// TestLogFull: no checkpoint can be written, so in the end commits are dropped; nothing is
// overwritten. Commits work again once the disk does.
func TestLogFull(t *testing.T) {
	w := single(t, smallParams(512, 0))
	w.fail = func(op Op) bool {
		for i := range w.c.mirrors {
			if m := &w.c.mirrors[i]; op.Offset >= m.start && op.Offset < m.start+2*m.slot {
				return true
			}
		}
		return false
	}
	for range 200 {
		w.commit()
		w.settle()
		if w.stats.dropped > 0 {
			break
		}
	}
	st := w.c.Status()
	if !errors.Is(st.Err, ErrLogFull) || !st.Suspended || st.LogUsed != st.LogSize {
		t.Fatalf("%+v", st)
	}
	if w.stats.durable < 60 || w.stats.unknown != 0 {
		t.Errorf("%+v", w.stats)
	}
	w.find(w.disks, "log full")
	w.check("")
	// A start with a full log must not need another slot, even if there are many such starts.
	for range 5 {
		w.start()
		w.settle()
		if w.opened {
			t.Fatal("opened without room for its record")
		}
		w.find(w.disks, "start with a full log")
	}
	w.fail = nil
	w.start()
	w.settle()
	if !w.opened || w.c.Status().LogUsed > 4096 {
		t.Fatalf("%+v", w.c.Status())
	}
	w.commits(100)
	w.find(w.disks, "well again")
	w.check("")
}

// manySource has more entries than a checkpoint holds.
type manySource struct{ n uint64 }

func (s manySource) Entries(cursor uint64, dst []Entry) (int, uint64, bool) {
	for i := range dst {
		if cursor == s.n {
			return i, cursor, true
		}
		dst[i] = Entry{Unit: cursor, Count: 1, Mask: 1, State: StatePending}
		cursor++
	}
	return len(dst), cursor, cursor == s.n
}

func TestTableFull(t *testing.T) {
	p := PlanParams{BackingSize: 64 << 20, BlockSize: 4096, SpareBytes: 1 << 20}
	w := single(t, p)
	capacity := w.plan.TableCapacity()
	for _, tc := range []struct {
		n    uint64
		want Outcome
	}{{capacity, OutcomeDurable}, {capacity + 1, OutcomeDropped}} {
		img, err := Load(devices(w.disks))
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewCommitter(img, manySource{tc.n}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.must(c.Open(0))
		RunOps(c, devices(w.disks), nil)
		ck := w.must(c.Checkpoint())
		if got := RunOps(c, devices(w.disks), nil); !slices.Equal(got, []Result{{ck, tc.want}}) {
			t.Errorf("%d entries of %d: %v", tc.n, capacity, got)
		}
		if err := c.Status().Err; tc.want == OutcomeDropped && !errors.Is(err, ErrTableFull) {
			t.Error(err)
		}
	}
	w.check(SeverityWarning) // nearly full
}

// TestEpochs: every start has an epoch of its own, also those that fail.
func TestEpochs(t *testing.T) {
	for _, tc := range worlds[:4] {
		w := single(t, tc.p)
		last := w.c.Status().Epoch
		for i := range 10 {
			img, err := Load(devices(w.disks))
			if err != nil {
				t.Fatal(err)
			}
			c, err := NewCommitter(img, w.live, Options{Session: uint64(i)})
			if err != nil {
				t.Fatal(err)
			}
			w.must(c.Open(0))
			left := i // writes until the disks are gone
			var epoch uint64
			for ops := c.Ops(); len(ops) > 0; ops = c.Ops() {
				for _, op := range ops {
					if op.Read {
						_, err := w.disks[op.Device].ReadAt(op.Data, op.Offset)
						c.Done(op.ID, err)
						continue
					}
					if left--; left < 0 {
						c.Done(op.ID, errMedium)
						continue
					}
					w.disks[op.Device].store(memWrite{op.Offset, op.Data}, nil)
					if r, ok := decodeRecord(op.Data, &w.plan.sb.UUID); ok {
						epoch = max(epoch, r.Epoch) // an old one may be written again
					} else if sb, err := decodeSuperblock(op.Data); err == nil {
						epoch = sb.Epoch
					}
					c.Done(op.ID, nil)
				}
			}
			if epoch != 0 && epoch <= last {
				t.Fatalf("%s: epoch %d again, after %d", tc.name, epoch, last)
			}
			last = max(last, epoch)
			if rs := c.Results(); len(rs) != 1 {
				t.Fatal(rs)
			}
			w.find(w.disks, fmt.Sprintf("%s: start cut after %d writes", tc.name, i))
		}
	}
}

// TestCommitAllocatesNothing: a commit must work while memory is short.
func TestCommitAllocatesNothing(t *testing.T) {
	w := single(t, smallParams(512, 0))
	tx := []Entry{{Unit: 1, Spare: 1, Count: 1, Mask: 1, State: StateMapped},
		{Unit: 2, Spare: 2, Count: 1, Mask: 1, State: StateMapped}}
	if err := w.live.Apply(tx[0]); err != nil {
		t.Fatal(err)
	}
	var rs []Result
	commit := func() {
		for range 3 {
			if _, err := w.c.Commit(tx); err != nil {
				t.Fatal(err)
			}
		}
		for {
			ops := w.c.Ops()
			for i := range ops {
				w.c.Done(ops[i].ID, w.disks[ops[i].Device].inPlace(&ops[i]))
			}
			r := w.c.Results()
			rs = append(rs[:0], r...)
			if len(ops) == 0 && len(r) == 0 {
				return
			}
		}
	}
	for range 300 {
		commit()
	}
	n := w.c.Status().Checkpoints
	if a := testing.AllocsPerRun(300, commit); a != 0 {
		t.Errorf("%v allocations per commit", a)
	}
	if w.c.Status().Checkpoints < n+5 {
		t.Error("the checkpoints were not part of it")
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, per := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d-waiting", per), func(b *testing.B) {
			w := single(b, PlanParams{BackingSize: 1 << 30, BlockSize: 512})
			tx := []Entry{{Unit: 1, Spare: 1, Count: 1, Mask: 1, State: StateMapped},
				{Spare: 5, Count: 1, State: StateRetired}}
			b.ReportAllocs()
			for n := 0; n < b.N; n += per {
				for range per {
					if _, err := w.c.Commit(tx); err != nil {
						b.Fatal(err)
					}
				}
				for {
					ops := w.c.Ops()
					for i := range ops {
						w.c.Done(ops[i].ID, w.disks[ops[i].Device].inPlace(&ops[i]))
					}
					if len(w.c.Results()) == 0 && len(ops) == 0 {
						break
					}
				}
			}
		})
	}
}

// BenchmarkLoad loads a set with a million remaps from memory, and replays it.
func BenchmarkLoad(b *testing.B) {
	const n = 1_000_000
	plan, err := Plan(PlanParams{BackingSize: 1 << 40, BlockSize: 4096, Name: "bench",
		SpareBytes: n * UnitSize})
	if err != nil {
		b.Fatal(err)
	}
	disk := newMemDisk(1 << 40)
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = Entry{Unit: uint64(i) * 97, Spare: uint32(i), Count: 1, Mask: 1,
			State: StateMapped}
	}
	if err := Create([]Device{disk}, plan, entries); err != nil {
		b.Fatal(err)
	}
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Load([]Device{disk}); err != nil {
				b.Fatal(err)
			}
		}
	})
	img, err := Load([]Device{disk})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("replay", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			count := 0
			if err := img.Replay(func(Entry) error { count++; return nil }); err != nil ||
				count != n {
				b.Fatal(err, count)
			}
		}
	})
	b.Run("table", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := img.Table(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestRecordOnOneMirror: a cut left the newest record on one mirror only. By
// the time Open is durable the other one has it too, and is enough alone.
func TestRecordOnOneMirror(t *testing.T) {
	for only := range 2 {
		w := single(t, smallParams(512, 0))
		tx := w.tx(3)
		w.must(w.c.Commit(tx))
		for _, op := range w.c.Ops() {
			if m := &w.c.mirrors[only]; op.Offset >= m.start && op.Offset < m.start+2*m.slot+
				int64(len(m.slots))*m.atom {
				w.disks[0].store(memWrite{op.Offset, op.Data}, nil)
			}
		}
		w.base = append(w.base, tx...) // it is found, so it counts from now on
		w.start()
		for !w.opened {
			w.take()
			if len(w.order) > 0 {
				w.finish()
			}
			w.results()
		}
		for i := range 2 {
			if s := w.c.Status().Mirrors[i].State; s != MirrorGood {
				t.Errorf("mirror %d is %s", i, s)
			}
			disks := []*memDisk{w.disks[0].clone()}
			wipe(disks[0], &w.c.mirrors[1-i])
			w.find(disks, fmt.Sprint("only mirror ", i))
		}
		w.settle()
		w.check("")
	}
}

// TestLastSuperblockOfSpareDevice: news that the spare device can do without is not written over
// the only good superblock that it has.
func TestLastSuperblockOfSpareDevice(t *testing.T) {
	w := newWorld(t, seeded(t, 51), pairParams(512))
	bad := func(op Op) bool { return op.Device == 1 && op.Offset != 0 && w.superblock(op) }
	w.fail = bad
	w.settle()
	if !w.opened {
		t.Fatal("one good copy is enough to open")
	}
	touched := false
	m := &w.c.mirrors[1]
	w.fail = func(op Op) bool {
		touched = touched || op.Device == 1 && op.Offset == 0 && !op.Read
		return bad(op) || op.Device == 0 && op.Offset >= m.start && op.Offset < m.start+2*m.slot+
			int64(len(m.slots))*m.atom
	}
	w.commit()
	w.settle()
	if s := w.c.Status().Mirrors[1].State; s != MirrorStale {
		t.Fatalf("the mirror is %s", s)
	}
	if touched {
		t.Error("the only good superblock of the spare device was put at risk")
	}
	w.find(w.disks, "one mirror stale, one superblock bad")
	w.fail = nil
	w.power()
	w.settle()
	w.check(SeverityInfo)
}
