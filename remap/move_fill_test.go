package remap

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// fillOf asks for blocks to be filled with random data, and returns what it asked for.
func (r *moverRig) fillOf(block, count uint64) Move {
	f := &Fill{Data: make([]byte, count*uint64(r.s.geo.BlockSize)),
		Outcome: make([]FillOutcome, count)}
	for i := range f.Data {
		f.Data[i] = byte(rand.IntN(255) + 1)
	}
	return Move{Block: block, Count: count, Fill: f}
}

// of returns the data that a fill has for a block.
func (r *moverRig) of(m Move, b uint64) []byte {
	bs := uint64(r.s.geo.BlockSize)
	return m.Fill.Data[(b-m.Block)*bs:][:bs]
}

// TestFill: a fill replaces exactly the blocks that are pending and do not read, and those that are
// lost. All others stay as they are, also pending ones that read.
func TestFill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, bs := range []int{512, 4096} {
		for range 20 {
			r := newMoverRig(t, bs, 400)
			per := r.s.geo.BlocksPerUnit()
			before := r.fill(1001, 300)
			r.move(Move{Block: 1100, Count: 64, ToSpare: true, Cause: metadata.CauseOperator})
			want := map[uint64]FillOutcome{}
			for b := uint64(1001); b < 1301; b++ {
				want[b] = FillNotBad
				place := r.placeNow(b)
				e := metadata.Entry{Unit: b / per, Count: 1, Mask: 1 << (b % per)}
				switch rng.IntN(6) {
				case 0: // pending
					e.State, want[b], r.silent[place] = metadata.StatePending, FillDone, true
				case 1: // pending, and it reads
					e.State, want[b] = metadata.StatePending, FillReads
				case 2:
					if b < 1100 || b >= 1164 {
						e.State, want[b] = metadata.StateLost, FillDone
					}
				}
				if e.State != 0 {
					r.s.m.Apply(e)
				}
			}
			m := r.fillOf(1001, 300)
			res := r.move(m)
			if res.Err != nil || res.Failed != 0 {
				t.Fatalf("%+v", res)
			}
			for b, o := range want {
				if got := m.Fill.Outcome[b-1001]; got != o {
					t.Fatalf("block %d: %v, want %v", b, got, o)
				}
				data := before[b]
				if o == FillDone {
					data = r.of(m, b)
				}
				if !bytes.Equal(r.now(b), data) {
					t.Fatalf("block %d (%v) does not hold what it should", b, o)
				}
			}
			counts := r.s.m.Counts()
			reads := uint64(0)
			for _, o := range m.Fill.Outcome {
				if o == FillReads {
					reads++
				}
			}
			r.want("lost", counts.Lost, uint64(0))
			r.want("pending", counts.Pending, reads)
			for u := range r.s.m.Units() {
				if r.s.m.Unit(u).Busy {
					t.Fatalf("unit %d is busy", u)
				}
			}
		}
	}
}

// placeNow is where a block lives, by device and offset.
func (r *moverRig) placeNow(b uint64) [2]int64 {
	per := r.s.geo.BlocksPerUnit()
	info := r.s.m.Unit(b / per)
	if spare, ok := info.SpareOf(int(b % per)); ok {
		d, off := r.s.geo.SpareOffset(spare)
		return [2]int64{int64(d), off + int64(b%per)*int64(r.s.geo.BlockSize)}
	}
	return r.home(b)
}

// TestFillFails: blocks that cannot be filled stay as they were: without a good spare unit, with a
// commit of unknown outcome, with an error of the path, and with the breaker open.
func TestFillFails(t *testing.T) {
	pending := func(r *moverRig) Move {
		for b := uint64(2000); b < 2016; b++ {
			r.silent[r.home(b)] = true
			r.s.m.Apply(metadata.Entry{Unit: b / 8, Count: 1, Mask: 1 << (b % 8),
				State: metadata.StatePending})
		}
		return r.fillOf(2000, 16)
	}
	none := make([]FillOutcome, 16)
	r := newMoverRig(t, 512, 64)
	r.s.geo.Known = [][]int64{{0}}
	m := pending(r)
	r.spares(r.twisted, func(uint32) bool { return true })
	if res := r.move(m); res.Err == nil || res.Failed != 16 || res.Moved != 0 ||
		!slices.Equal(m.Fill.Outcome, none) {
		t.Errorf("no good spare unit: %+v, %v", res, m.Fill.Outcome)
	}
	r.want("pending", r.s.m.Counts().Pending, uint64(16))

	r = newMoverRig(t, 512, 1)
	r.full()
	m = pending(r)
	if res := r.move(m); res.Err != ErrSpareFull || res.Failed != 16 {
		t.Errorf("no spare unit: %+v", res)
	}

	r = newMoverRig(t, 512, 64)
	m = pending(r)
	r.unknown = true
	if res := r.move(m); res.Failed != 16 || res.Moved != 0 ||
		!slices.Equal(m.Fill.Outcome, none) {
		t.Errorf("unknown outcome: %+v", res)
	}
	r.want("tripped", r.s.Tripped(), true)
	if err := r.a.Move(m); err != ErrTripped {
		t.Error(err)
	}

	r = newMoverRig(t, 512, 64)
	m = pending(r)
	r.bad[r.home(2003)] = int32(syscall.ETIMEDOUT)
	if res := r.move(m); res.Failed != 1 || res.Moved != 15 ||
		m.Fill.Outcome[3] != FillFailed {
		t.Errorf("path error: %+v", res)
	}
	m.Fill.Data = m.Fill.Data[1:]
	if err := r.a.Move(m); err != ErrRange {
		t.Error(err)
	}
}

// TestFillFindsAnotherSpare: spare units that do not hold the data are gone around, and a block
// that is pending in a spare unit goes to another one.
func TestFillFindsAnotherSpare(t *testing.T) {
	r := newMoverRig(t, 512, 64)
	r.s.geo.Known = [][]int64{{0}}
	before := r.fill(2000, 8)
	r.move(Move{Block: 2000, Count: 8, ToSpare: true, Cause: metadata.CauseOperator})
	old := r.s.m.Unit(250).Places[0].Spare
	r.silent[r.placeNow(2002)] = true
	r.s.m.Apply(metadata.Entry{Unit: 250, Count: 1, Mask: 4, State: metadata.StatePending})
	r.spares(r.twisted, func(u uint32) bool { return u != old && u < 8 })
	m := r.fillOf(2002, 1)
	r.want("result", r.move(m), MoveResult{ID: 0, Moved: 1})
	if info := r.s.m.Unit(250); info.N != 2 {
		t.Errorf("%+v", info)
	}
	for b := uint64(2000); b < 2008; b++ {
		want := before[b]
		if b == 2002 {
			want = r.of(m, b)
		}
		if !bytes.Equal(r.now(b), want) {
			t.Errorf("block %d does not hold what it should", b)
		}
	}
}

// TestFillIsCut: a drive that takes long for its bad sectors does not hold up a whole batch: the
// units that were not begun are given back to their users.
func TestFillIsCut(t *testing.T) {
	r := newMoverRig(t, 512, 64)
	for b := uint64(2000); b < 2256; b++ {
		r.silent[r.home(b)] = true
		r.s.m.Apply(metadata.Entry{Unit: b / 8, Count: 1, Mask: 1 << (b % 8),
			State: metadata.StatePending})
	}
	r.transfer = func(tr *Transfer) int32 {
		res := r.carryOut(tr)
		if res < 0 {
			r.clock += int64(7e9)
		}
		return res
	}
	m := r.fillOf(2000, 256)
	if res := r.move(m); res.Moved != 256 {
		t.Fatalf("%+v", res)
	}
	// Each unit is committed by itself, because it has taken longer than a request may take.
	r.want("commits", int(r.next), 32)
	for u := uint64(250); u < 282; u++ {
		if r.s.m.Unit(u).Busy {
			t.Errorf("unit %d is busy", u)
		}
	}
	r.want("claims", r.a.Status().Claims, 0)
}

// TestInDoubtStays: a block that the Map calls lost only because the outcome of a write's commit is
// unknown gets neither a fill's data nor what home held earlier, if the breaker is closed while
// these are under way. It holds what the write left.
func TestInDoubtStays(t *testing.T) {
	for what, ask := range map[string]func(r *moverRig) Move{
		"fill": func(r *moverRig) Move { return r.fillOf(2000, 1) },
		"home": func(*moverRig) Move {
			return Move{Block: 2000, Count: 1, AcceptOld: true, Cause: metadata.CauseOperator}
		},
	} {
		for _, closed := range []bool{true, false} {
			r := newMoverRig(t, 512, 64)
			r.fill(2000, 1) // what home holds
			r.breakHome(2000, syscall.EIO)
			r.e.Submit(&Request{Op: OpWrite, Block: 2000, Count: 1})
			for len(r.tickets) == 0 {
				r.step()
			}
			delete(r.bad, r.home(2000))
			m := ask(r)
			if err := r.a.Move(m); err != nil {
				t.Fatal(err)
			}
			r.unknown = true
			r.transfer = func(tr *Transfer) int32 {
				if r.unknown && closed {
					r.unknown = false
					if err := r.a.Resume(); err != nil {
						t.Fatal(err)
					}
					r.a.Committed(r.tickets[0], true)
					r.tickets = r.tickets[1:]
				}
				return r.carryOut(tr)
			}
			r.run()
			r.want(what+": the write", r.results[0], -int32(syscall.EIO))
			res := r.ended[len(r.ended)-1]
			if res.Moved != 0 || res.Failed != 1 || m.Fill != nil &&
				m.Fill.Outcome[0] != FillFailed {
				t.Errorf("%s: %+v", what, res)
			}
			if !closed {
				r.unknown = false
				if err := r.a.Resume(); err != nil {
					t.Fatal(err)
				}
				r.run()
			}
			info := r.s.m.Unit(250)
			if spare, ok := info.SpareOf(0); !ok || spare != 0 || info.Lost != 0 || info.Busy {
				t.Errorf("%s: the block does not live where the write went: %+v", what, info)
			}
			r.want(what+": used", r.alloc.Used(), uint64(1))
		}
	}
}

// TestFillSeen: a fill leaves a block alone that is bad in another way than it was seen: its data
// was written since, and was lost again.
func TestFillSeen(t *testing.T) {
	r := newMoverRig(t, 512, 400)
	before := r.fill(2000, 80)
	r.move(Move{Block: 2040, Count: 40, ToSpare: true, Cause: metadata.CauseOperator})
	bad := func(b uint64, state metadata.State) {
		r.silent[r.placeNow(b)] = true
		r.s.m.Apply(metadata.Entry{Unit: b / 8, Count: 1, Mask: 1 << (b % 8), State: state,
			Time: 100})
	}
	at := func(b uint64) uint32 {
		info := r.s.m.Unit(b / 8)
		spare, _ := info.SpareOf(int(b % 8))
		return spare
	}
	m := r.fillOf(2000, 80)
	m.Fill.Seen = make([]Seen, 80)
	want := make([]FillOutcome, 80)
	for i := range want {
		want[i] = FillNotBad
	}
	for _, c := range []struct {
		block uint64
		now   metadata.State
		seen  Seen
		want  FillOutcome
	}{
		{2000, metadata.StatePending, Seen{State: metadata.StatePending}, FillDone},
		{2001, metadata.StatePending, Seen{}, FillChanged},
		{2002, metadata.StatePending, Seen{State: metadata.StateLost, Time: 100}, FillChanged},
		{2003, metadata.StatePending, Seen{State: metadata.StatePending, Mapped: true},
			FillChanged},
		{2008, metadata.StateLost, Seen{State: metadata.StateLost, Time: 100}, FillDone},
		{2009, metadata.StateLost, Seen{State: metadata.StateLost, Time: 99}, FillChanged},
		{2010, metadata.StateLost, Seen{State: metadata.StatePending}, FillChanged},
		{2011, 0, Seen{State: metadata.StatePending}, FillNotBad},
		{2040, metadata.StatePending, Seen{State: metadata.StatePending, Mapped: true,
			Spare: at(2040)}, FillDone},
		{2041, metadata.StatePending, Seen{State: metadata.StatePending, Mapped: true,
			Spare: at(2041) + 1}, FillChanged},
		{2042, metadata.StatePending, Seen{State: metadata.StatePending}, FillChanged},
	} {
		if c.now != 0 {
			bad(c.block, c.now)
		}
		m.Fill.Seen[c.block-2000], want[c.block-2000] = c.seen, c.want
	}
	if res := r.move(m); res.Err != nil || res.Moved != 3 || res.Failed != 0 {
		t.Errorf("%+v", res)
	}
	if !slices.Equal(m.Fill.Outcome, want) {
		t.Errorf("got  %v\nwant %v", m.Fill.Outcome, want)
	}
	for b := uint64(2000); b < 2080; b++ {
		info := r.s.m.Unit(b / 8)
		isBad := (info.Pending|info.Lost)&(1<<(b%8)) != 0
		o, data := want[b-2000], before[b]
		if o == FillDone {
			data = r.of(m, b)
		}
		if isBad != (o == FillChanged) || !isBad && !bytes.Equal(r.now(b), data) {
			t.Errorf("block %d, %v: bad %v", b, o, isBad)
		}
	}
	short := r.fillOf(2000, 2)
	short.Fill.Seen = make([]Seen, 1)
	if err := r.a.Move(short); err == nil {
		t.Error("a fill that was seen in part is taken")
	}
}
