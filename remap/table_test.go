package remap

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// filler is a whole device in memory, none of whose blocks at home can be written, on which
// a table is filled until nothing more is noted.
type filler struct {
	*herd
	devs   []metadata.Device
	plan   *metadata.Layout
	shared *Shared
	alloc  *Allocator
	queue  *fillerQueue
	trips  int
	grows  bool // larger checkpoint slots are made when the table fills
	ended  []MoveResult
	moves  []Transfer
}

// fillerQueue remembers the answer of its one tag.
type fillerQueue struct {
	herdQueue
	res int32
}

func (q *fillerQueue) Finish(_ uint16, res int32) { q.res = res }

// fillerKeeper is a herd's keeper for a disk on which no block that is moved can be read.
type fillerKeeper struct {
	herdKeeper
	f *filler
}

func (k fillerKeeper) Alert(a Alert) {
	if a == AlertTripped {
		k.f.trips++
	}
}
func (k fillerKeeper) Moved(r MoveResult)   { k.f.ended = append(k.f.ended, r) }
func (k fillerKeeper) SpareFailed(BadSpare) {}
func (k fillerKeeper) Transfer(t *Transfer) { k.f.moves = append(k.f.moves, *t) }

// step ends all that is under way.
func (f *filler) step() {
	f.round(1)
	if f.grows {
		if f.arbiter.TableNearlyFull() {
			f.com.Grow()
		}
		growth := f.com.Growth()
		if f.arbiter.SetTable(f.com.TableCapacity(),
			growth == metadata.GrowthUnderWay || growth == metadata.GrowthNone) {
			f.arbiter.Advance()
		}
	}
	moves := f.moves
	f.moves = nil
	for i := range moves {
		res := int32(len(moves[i].Data))
		if moves[i].Op == OpRead {
			res = -int32(syscall.EIO)
		}
		f.arbiter.Transferred(moves[i].ID, res)
	}
}

func newFiller(t *testing.T, p metadata.PlanParams,
	bad func(*metadata.Layout) []metadata.Entry) *filler {
	t.Helper()
	f := &filler{herd: &herd{t: t, rng: rand.New(rand.NewPCG(1, 5))}}
	p.Name = "filler"
	var err error
	f.plan, err = metadata.Plan(p)
	noError(t, err)
	f.disk = &herdDisk{size: p.BackingSize, pages: map[int64][]byte{}}
	f.devs = []metadata.Device{f.disk}
	var entries []metadata.Entry
	if bad != nil {
		entries = bad(f.plan)
	}
	noError(t, metadata.Create(f.devs, f.plan, entries))
	if out := f.start(true); out != metadata.OutcomeDurable {
		t.Fatal("the first start:", f.com.Status().Err)
	}
	return f
}

// start loads what is on the disk and raises the epoch. Without a bound it is as older
// versions were.
func (f *filler) start(bound bool) metadata.Outcome {
	f.t.Helper()
	img, err := metadata.Load(f.devs)
	noError(f.t, err)
	r, err := Restore(img.Layout(), img.Replay)
	noError(f.t, err)
	if !bound {
		r.Geometry.TableCapacity, r.Geometry.Density = 0, 0
	}
	f.homes = int64(r.Geometry.Blocks) * int64(r.Geometry.BlockSize)
	f.shared, f.alloc = NewShared(r.Geometry, r.Map), r.Allocator
	k := fillerKeeper{herdKeeper{f.herd}, f}
	f.ios, f.ops, f.toA, f.toE, f.engines = nil, nil, nil, nil, nil
	f.arbiter = NewArbiter(ArbiterConfig{Queues: 1, Depth: 8, Buffer: make([]byte, 8192),
		Policy: Policy{Burst: 1 << 30}}, f.shared, r.Allocator, k, k)
	f.com, err = metadata.NewCommitter(img, f.arbiter, metadata.Options{Session: f.rng.Uint64()})
	noError(f.t, err)
	ticket, err := f.com.Open(1)
	noError(f.t, err)
	f.queue = &fillerQueue{herdQueue: herdQueue{f.herd, 0}}
	f.engines = append(f.engines, NewEngine(EngineConfig{Depth: 8, MaxBlocks: 256, ZeroBlocks: 16,
		DiscardBlocks: 16}, f.shared, f.queue))
	for _, res := range metadata.RunOps(f.com, f.devs, nil) {
		if res.Ticket == ticket {
			return res.Outcome
		}
	}
	return metadata.OutcomeDropped
}

// write writes a block and returns the answer.
func (f *filler) write(block uint64) int32 { return f.request(OpWrite, block) }

// request carries out a request for a block and returns the answer.
func (f *filler) request(op Op, block uint64) int32 {
	f.t.Helper()
	const none = 1 << 30
	f.queue.res = none
	f.engines[0].Submit(&Request{Op: op, Block: block, Count: 1})
	for n := 0; f.queue.res == none; n++ {
		if n == 5000 {
			f.t.Fatalf("a request for block %d has no answer", block)
		}
		f.step()
	}
	return f.queue.res
}

// goesOn makes sure that a full table has not stopped the set: the breaker is closed, the set can
// be stopped and started again, three times, and a checkpoint can be written.
func (f *filler) goesOn(what string) {
	f.t.Helper()
	if f.trips > 0 {
		f.t.Errorf("%s: the breaker opened: %s", what, f.arbiter.Status().Reason)
	}
	for range 3 {
		if out := f.start(true); out != metadata.OutcomeDurable {
			f.t.Fatalf("%s: the next start: outcome %d: %v", what, out, f.com.Status().Err)
		}
		ck, err := f.com.Checkpoint()
		noError(f.t, err)
		for _, res := range metadata.RunOps(f.com, f.devs, nil) {
			if res.Ticket == ck && res.Outcome != metadata.OutcomeDurable {
				f.t.Fatalf("%s: no checkpoint: %v", what, f.com.Status().Err)
			}
		}
	}
	report, err := metadata.Check(f.devs)
	if err != nil {
		f.t.Errorf("%s: check: %v %+v", what, err, report)
	}
}

// zone is a list that names one dead zone.
func zone(l *metadata.Layout) []metadata.Entry {
	return []metadata.Entry{{Unit: 10000, Count: uint32(2 * l.SpareUnits()),
		Mask: uint8(1<<(4096/l.BlockSize()) - 1), State: metadata.StatePending,
		Cause: metadata.CauseImport, Time: 1}}
}

// TestDeadZone: writes into a zone that a list names as bad, every other unit of it, are
// healed until all spare units are in use, whole blocks of the zone or parts of them; and
// the set goes on.
func TestDeadZone(t *testing.T) {
	for _, p := range []metadata.PlanParams{
		{BackingSize: 1 << 30, BlockSize: 4096},
		{BackingSize: 4 << 30, BlockSize: 4096},
		{BackingSize: 1 << 30, BlockSize: 512},
		{BackingSize: 1 << 30, BlockSize: 2048},
	} {
		f := newFiller(t, p, zone)
		perUnit, n := uint64(4096/p.BlockSize), 0
		for _, i := range rand.New(rand.NewPCG(2, 2)).Perm(int(f.plan.SpareUnits())) {
			if f.write((10000+2*uint64(i))*perUnit) != 0 {
				break
			}
			n++
		}
		st := f.arbiter.Status()
		t.Logf("%d writes, table %+v, %d of %d spare units free", n, st.Table, st.Free, st.Total)
		if st.Free > 0 {
			t.Errorf("blocks of %d bytes: %d writes, then: %+v", p.BlockSize, n, st)
		}
		f.goesOn("dead zone")
	}
}

// TestListFillsTable: a list that fills a checkpoint leaves no room for the entries that writes to
// some of the blocks need. These writes are refused from the beginning.
func TestListFillsTable(t *testing.T) {
	f := newFiller(t, metadata.PlanParams{BackingSize: 256 << 20, BlockSize: 512},
		func(l *metadata.Layout) (bad []metadata.Entry) {
			for i := range l.TableCapacity() - 10 {
				bad = append(bad, metadata.Entry{Unit: 2000 + 2*i, Count: 1, Mask: 3,
					State: metadata.StatePending, Cause: metadata.CauseImport, Time: 1})
			}
			return bad
		})
	for n := range uint64(50) {
		if f.write((2000+2*n)*8) == 0 {
			t.Fatalf("write %d went well", n)
		}
	}
	if st := f.arbiter.Status(); !st.Table.Full || st.Tripped {
		t.Errorf("%+v", st)
	}
	f.goesOn("list")
}

// TestMovesFillTable: blocks that are to be moved, and do not read, become pending as long
// as there is room.
func TestMovesFillTable(t *testing.T) {
	f := newFiller(t, metadata.PlanParams{BackingSize: 256 << 20, BlockSize: 4096}, nil)
	full := false
	for n := uint64(0); n < f.plan.Units()/2-2000 && !full; n++ {
		noError(t, f.arbiter.Move(Move{ID: n, Block: 2000 + 2*n, Count: 1, ToSpare: true,
			Cause: metadata.CauseOperator}))
		for range 200 {
			if f.step(); uint64(len(f.ended)) > n {
				break
			}
		}
		if uint64(len(f.ended)) != n+1 {
			t.Fatalf("move %d does not end", n)
		}
		full = f.ended[n].Err != nil
	}
	st := f.arbiter.Status()
	t.Logf("%d pending, %+v", f.shared.m.Counts().Pending, st.Table)
	if !full || st.Tripped || f.shared.m.Counts().Pending < f.plan.TableCapacity()/2 {
		t.Errorf("%d moves, %+v", len(f.ended), st)
	}
	f.goesOn("moves")
}

// TestOverfullSetOpens: a set whose table an older version let outgrow the checkpoint, until its
// log was full, can be started, loses no remap by that, and can be read by the offline verbs as
// well.
func TestOverfullSetOpens(t *testing.T) {
	f := newFiller(t, metadata.PlanParams{BackingSize: 1 << 30, BlockSize: 4096}, zone)
	if f.start(false) != metadata.OutcomeDurable {
		t.Fatal("start")
	}
	written := map[uint64]bool{}
	for _, i := range rand.New(rand.NewPCG(2, 2)).Perm(int(f.plan.SpareUnits())) {
		b := 10000 + 2*uint64(i)
		if f.trips > 0 || f.write(b) != 0 {
			break
		}
		written[b] = true
	}
	// More scattered marks than there is room for, as long as the log takes them.
	for u := uint64(40000); f.trips == 0 && u < 60000; u += 2 {
		if _, err := f.com.Commit([]metadata.Entry{{Unit: u, Count: 1, Mask: 1,
			State: metadata.StatePending, Cause: metadata.CauseRead, Time: 1}}); err != nil {
			break
		}
		f.shared.m.Apply(metadata.Entry{Unit: u, Count: 1, Mask: 1, State: metadata.StatePending,
			Cause: metadata.CauseRead, Time: 1})
		metadata.RunOps(f.com, f.devs, nil)
	}
	t.Logf("%d writes, committer: %v", len(written), f.com.Status().Err)
	f.trips = 0
	// The offline verbs read it as well.
	img, err := metadata.Load(f.devs)
	noError(t, err)
	table, err := img.Table()
	noError(t, err)
	if n := metadata.CountEntries(table); n > f.plan.TableCapacity() {
		t.Errorf("offline it has %d entries, a checkpoint holds %d", n, f.plan.TableCapacity())
	}
	f.goesOn("overfull")
	for b := range written {
		if info := f.shared.m.Unit(b); info.N != 1 {
			t.Fatalf("block %d is not remapped any more", b)
		}
	}
}

// TestTableGrows: a disk with more bad blocks than the table had room for, each by itself. They are
// all noted, because the mirrors get larger slots in time, and again when those fill. When there is
// no more room, blocks are refused as before. What was noted is there after a start and a repair,
// and the set can be reverted.
func TestTableGrows(t *testing.T) {
	f := newFiller(t, metadata.PlanParams{BackingSize: 256 << 20, BlockSize: 4096}, nil)
	f.grows = true
	was, block, grown := f.plan.TableCapacity(), uint64(2000), 0
	for capacity := was; !f.arbiter.Status().Table.Full; block += 2 {
		if f.request(OpRead, block) == 0 {
			t.Fatalf("block %d reads", block)
		}
		if now := f.arbiter.Status().Table.Capacity; now > capacity {
			capacity, grown = now, grown+1
		}
	}
	f.engines[0].Publish()
	noted := (block-2000)/2 - f.shared.Counters().NotNoted
	st := f.arbiter.Status()
	t.Logf("%d blocks noted, %d not; %d entries at first, now %+v, grown %d times: %q", noted,
		f.shared.Counters().NotNoted, was, st.Table, grown, f.com.Growth())
	if grown == 0 || noted < was+was/4 || f.shared.Counters().NotNoted > 1 ||
		f.com.Growth() != metadata.GrowthNoRoom || f.trips > 0 {
		t.Errorf("%+v", st)
	}
	// There is room for heals.
	if res := f.write(2000); res != 0 {
		t.Errorf("a write to a noted block: %d", res)
	}
	pending := f.shared.Map().Counts().Pending
	f.goesOn("grown")
	if n := f.shared.Map().Counts().Pending; n != pending {
		t.Errorf("%d blocks are pending after a start, %d before", n, pending)
	}
	if n := f.arbiter.Status().Table.Capacity; n != st.Table.Capacity {
		t.Errorf("%d entries after a start, %d before", n, st.Table.Capacity)
	}
	repair, err := metadata.PlanRepair(f.devs, nil)
	noError(t, err)
	_, err = repair.Run(metadata.RunOptions{Now: 1, Session: 7})
	noError(t, err)
	f.goesOn("repaired")
	if n := f.shared.Map().Counts().Pending; n != pending {
		t.Errorf("%d blocks are pending after a repair, %d before", n, pending)
	}
	img, err := metadata.Load(f.devs)
	noError(t, err)
	released, err := metadata.Revert(img, metadata.ConvertOptions{Force: true})
	noError(t, err)
	if _, err := metadata.Load(f.devs); err == nil {
		t.Errorf("released, and still a set: %+v", released)
	}
}
