package metadata

import (
	"fmt"
	"os"
	"testing"
)

// TestLogOutlastsCheckpoint: when records begin to be paced, a log has enough slots left for one
// record with each step of the largest checkpoint that the set can have. This also holds when the
// checkpoint slots have grown as far as the room that Plan leaves allows.
func TestLogOutlastsCheckpoint(t *testing.T) {
	type sizes struct{ units, slot, log int64 }
	var all []sizes
	for _, units := range []int64{64, 256, 4096, 1 << 16, 1 << 20, 4 << 20, 16 << 20} {
		slot, log := mirrorSizes(capacityFor(units, defaultTableRoom), PageSize)
		all = append(all, sizes{units, slot, log})
	}
	for size := int64(64 << 20); size <= 8<<40; size *= 2 {
		l, err := Plan(PlanParams{BackingSize: size, BlockSize: 4096, Name: "n"})
		if err != nil {
			t.Fatal(err)
		}
		sb := l.Superblock()
		for slot := sb.leastSlot(); slot != 0; slot = sb.growthSlot() {
			sb.grow(t, slot)
			all = append(all, sizes{int64(l.SpareUnits()), slot, sb.LogBytes})
		}
	}
	for _, s := range all {
		units, slot, log := s.units, s.slot, s.log
		pages := (slot - PageSize) / PageSize
		per := func(bytes int64) int64 { return (pages*PageSize + bytes - 1) / bytes }
		// The header is written, and read back, by itself.
		steps := 1 + per(defaultChunk) + 1 + per(maxReadBack)
		if left := log / PageSize / 8 * 3; left < steps {
			t.Errorf("%d spare units: %d slots are left for a checkpoint of %d steps", units, left,
				steps)
		}
	}
}

// shower is a source of n pending units, none of which is like the next one. If runs is set, it
// looks at that many units for each entry that it returns, as the Map does for units in a row.
type shower struct {
	n, runs uint64
	calls   int
}

func (s *shower) Entries(cursor uint64, dst []Entry) (int, uint64, bool) {
	s.calls++
	if s.runs > 0 {
		count := min(s.runs, s.n-cursor)
		dst[0] = Entry{Unit: cursor, Count: uint32(count), Mask: 1, State: StatePending}
		return 1, cursor + count, cursor+count == s.n
	}
	for i := range dst {
		if cursor == s.n {
			return i, cursor, true
		}
		dst[i] = Entry{Unit: cursor, Count: 1, Mask: 1, State: StatePending, Time: uint32(cursor)}
		cursor++
	}
	return len(dst), cursor, cursor == s.n
}

// storm opens a set with a large table and commits without a pause while a checkpoint is written.
// Its disk writes records at once and carries out steps of the checkpoint slowly: each takes as
// long as perStep records, unless the Committer wants nothing else.
type storm struct {
	t       *testing.T
	disk    *memDisk
	c       *Committer
	src     *shower
	perStep int

	steps, records, writes int // of the checkpoint; durable during it; FUA writes of them
	most                   int // steps that one commit waited for, at most
	calls                  int // of Entries between two Ops, at most
}

func newStorm(t *testing.T, src *shower, p PlanParams, perStep int) *storm {
	p.BackingSize, p.BlockSize, p.Name = 1<<38, 4096, "storm"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	s := &storm{t: t, disk: newMemDisk(1 << 38), src: src, perStep: perStep}
	if err := Create([]Device{s.disk}, plan, nil); err != nil {
		t.Fatal(err)
	}
	img, err := Load([]Device{s.disk})
	if err != nil {
		t.Fatal(err)
	}
	if s.c, err = NewCommitter(img, src, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.c.Open(1); err != nil {
		t.Fatal(err)
	}
	RunOps(s.c, []Device{s.disk}, nil)
	return s
}

func (s *storm) done(op *Op) { s.c.Done(op.ID, s.disk.inPlace(op)) }

// run commits until the log is half full, and until the checkpoint that begins then is
// durable.
func (s *storm) run() {
	var err error
	var slow []Op
	since := 0 // records since the last step
	var tx Ticket
	began, unit := 0, uint64(0)
	for s.c.ck.written == 0 {
		if tx == 0 {
			unit++
			if tx, err = s.c.Commit([]Entry{{Unit: unit % s.src.n, Count: 1, Mask: 1,
				State: StatePending, Time: uint32(unit % s.src.n)}}); err != nil {
				s.t.Fatal(err)
			}
			began = s.steps
		}
		s.src.calls = 0
		ops := s.c.Ops()
		during := s.c.ck.active()
		s.calls = max(s.calls, s.src.calls)
		records := 0
		for _, op := range ops {
			if int(op.ID&0xff)%2 == int(opRecord) {
				s.done(&op)
				records++
			} else {
				slow = append(slow, op)
			}
		}
		if during {
			s.writes += records
		}
		ended := false
		for _, r := range s.c.Results() {
			switch {
			case r.Outcome != OutcomeDurable:
				s.t.Fatalf("%+v", r)
			case r.Ticket == tx:
				tx, ended = 0, true
				if during {
					s.records++
				}
				since++
				s.most = max(s.most, s.steps-began)
			}
		}
		if len(slow) > 0 && (since >= s.perStep || records == 0 && !ended) {
			// A step of each mirror.
			for i := range slow {
				s.done(&slow[i])
			}
			slow, since = slow[:0], 0
			s.steps++
		} else if len(slow) == 0 && records == 0 && !ended {
			s.t.Fatal("nothing to do, and a commit waits")
		}
	}
	if tx != 0 {
		s.most = max(s.most, s.steps-began)
	}
}

// TestCommitsGoOnDuringCheckpoint: however many records a disk writes in the time of one
// step of a checkpoint, the log does not run full before that is done, and no commit waits
// for more than a step or two of it. UBLK_REMAP_FULL=1 does it with 16 M entries, in 2 GB.
func TestCommitsGoOnDuringCheckpoint(t *testing.T) {
	n := uint64(60_000)
	if os.Getenv("UBLK_REMAP_FULL") != "" {
		n = 16 << 20
	}
	for _, perStep := range []int{1, 5, 200} {
		t.Run(fmt.Sprintf("%d records in a step", perStep), func(t *testing.T) {
			s := newStorm(t, &shower{n: n}, PlanParams{SpareBytes: int64(n) * UnitSize}, perStep)
			s.run()
			t.Logf("%d entries: %d steps, %d commits meanwhile, none waited for more than %d steps",
				n, s.steps, s.records, s.most)
			if s.most > 2 {
				t.Errorf("a commit waited for %d of %d steps", s.most, s.steps)
			}
			if s.records < s.steps-2 {
				t.Errorf("%d commits in %d steps", s.records, s.steps)
			}
			// One FUA write for each of two mirrors.
			if got := int(s.c.rec.count) + len(s.c.mirrors); got != 3 || s.writes != 2*s.records {
				t.Errorf("%d writes for %d commits on %d mirrors", s.writes, s.records,
					len(s.c.mirrors))
			}
			img, err := Load([]Device{s.disk})
			if err != nil {
				t.Fatal(err)
			}
			if img.checkpoint.entries != n {
				t.Errorf("the checkpoint has %d entries", img.checkpoint.entries)
			}
			if got := len(img.chain); got < s.records {
				t.Errorf("%d records follow it, %d were durable meanwhile", got, s.records)
			}
		})
	}
}

// TestCheckpointOfRuns: a table of many units and few entries is not walked in one go.
func TestCheckpointOfRuns(t *testing.T) {
	for _, physical := range []int{0, 16384} {
		src := &shower{n: 1 << 23, runs: 1 << 15}
		s := newStorm(t, src, PlanParams{SpareBytes: 1 << 20 * UnitSize,
			PhysicalBlockSize: physical}, 3)
		s.run()
		if s.calls > 1 {
			t.Errorf("physical blocks of %d: %d times between two steps the source was asked",
				physical, s.calls)
		}
		img, err := Load([]Device{s.disk})
		if err != nil {
			t.Fatal(err)
		}
		table, err := img.Table()
		if err != nil {
			t.Fatal(err)
		}
		if got := table.Counts().Pending; got != src.n {
			t.Errorf("physical blocks of %d: %d blocks are pending, want %d", physical, got, src.n)
		}
	}
}
