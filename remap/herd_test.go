package remap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// herdDisk is a disk of metadata pages in memory.
type herdDisk struct {
	size  int64
	pages map[int64][]byte
}

func (d *herdDisk) Size() int64 { return d.size }
func (d *herdDisk) Sync() error { return nil }

func (d *herdDisk) ReadAt(b []byte, off int64) (int, error) {
	for i := 0; i < len(b); i += metadata.PageSize {
		clear(b[i : i+metadata.PageSize])
		copy(b[i:], d.pages[off+int64(i)])
	}
	return len(b), nil
}

func (d *herdDisk) WriteAt(b []byte, off int64) (int, error) {
	for i := 0; i < len(b); i += metadata.PageSize {
		d.pages[off+int64(i)] = slices.Clone(b[i : i+metadata.PageSize])
	}
	return len(b), nil
}

// herd is a whole device, engines to metadata, whose disk cannot write anything in place.
// Every operation under way, on data or metadata, ends in a round with the same
// probability: heals and commits take their time alike.
type herd struct {
	t       *testing.T
	rng     *rand.Rand
	disk    *herdDisk
	engines []*Engine
	arbiter *Arbiter
	com     *metadata.Committer
	homes   int64 // bytes: offsets below are of blocks at home

	ios      []herdIO
	ops      []metadata.Op
	toA      []Message
	toE      []Message
	finished int
	writes   int // FUA writes of the Committer
}

type herdIO struct {
	queue int
	IO
}

// herdQueue is a queue's driver.
type herdQueue struct {
	*herd
	queue int
}

func (d herdQueue) Issue(io *IO)    { d.ios = append(d.ios, herdIO{d.queue, *io}) }
func (d herdQueue) Send(m *Message) { d.toA = append(d.toA, *m) }
func (d herdQueue) Now() int64      { return 0 }
func (d herdQueue) Finish(_ uint16, res int32) {
	if res != 0 {
		d.t.Errorf("a heal ended with %d", res)
	}
	d.finished++
}

// herdKeeper is the Arbiter's driver and its journal.
type herdKeeper struct{ *herd }

func (k herdKeeper) Send(_ uint16, m *Message) { k.toE = append(k.toE, *m) }
func (k herdKeeper) Transfer(*Transfer)        {}
func (k herdKeeper) Now() int64                { return 0 }
func (k herdKeeper) WallClock() uint32         { return 1 }
func (k herdKeeper) Moved(MoveResult)          {}
func (k herdKeeper) SpareFailed(BadSpare)      {}
func (k herdKeeper) Alert(a Alert)             { k.t.Error(a) }
func (k herdKeeper) Missing(uint8) string      { return "" }

func (k herdKeeper) Commit(e []metadata.Entry) (Ticket, error) {
	t, err := k.com.Commit(e)
	return Ticket(t), err
}

func (k herdKeeper) Resume(e []metadata.Entry) (Ticket, error) {
	t, err := k.com.Resume(e)
	return Ticket(t), err
}

const herdQueues, herdDepth = 8, 125

func newHerd(t *testing.T, seed uint64) *herd {
	return newHerdOf(t, seed, metadata.PlanParams{BackingSize: 1 << 30, BlockSize: 4096,
		SpareBytes: 16384 * metadata.UnitSize}, herdQueues, EngineConfig{Depth: herdDepth,
		MaxBlocks: 256, ZeroBlocks: 16})
}

// newHerdOf makes a herd of queues whose engines have that configuration.
func newHerdOf(t *testing.T, seed uint64, p metadata.PlanParams, queues int,
	cfg EngineConfig) *herd {
	g := &herd{t: t, rng: rand.New(rand.NewPCG(seed, 5))}
	p.Name = "group"
	plan, err := metadata.Plan(p)
	noError(t, err)
	g.disk = &herdDisk{size: p.BackingSize, pages: map[int64][]byte{}}
	devices := []metadata.Device{g.disk}
	noError(t, metadata.Create(devices, plan, nil))
	img, err := metadata.Load(devices)
	noError(t, err)
	r, err := Restore(img.Layout(), img.Replay)
	noError(t, err)
	g.homes = int64(r.Geometry.Blocks) * int64(p.BlockSize)
	shared := NewShared(r.Geometry, r.Map)
	k := herdKeeper{g}
	g.arbiter = NewArbiter(ArbiterConfig{Queues: queues, Depth: cfg.Depth, Policy: cfg.Policy,
		Buffer: make([]byte, 8192)}, shared, r.Allocator, k, k)
	g.com, err = metadata.NewCommitter(img, g.arbiter, metadata.Options{Session: 1})
	noError(t, err)
	_, err = g.com.Open(1)
	noError(t, err)
	metadata.RunOps(g.com, devices, nil)
	for q := range queues {
		cfg.Queue = uint16(q)
		g.engines = append(g.engines, NewEngine(cfg, shared, herdQueue{g, q}))
	}
	return g
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// round ends each thing that is under way with a probability of 1/in, and hands on the results.
func (g *herd) round(in int) {
	ios, ops := g.ios, g.ops
	g.ios, g.ops = nil, nil
	for _, io := range ios {
		switch {
		case g.rng.IntN(in) != 0:
			g.ios = append(g.ios, io)
		// a heal's write to a spare unit is FUA, all others are not
		case io.Offset < g.homes && !io.FUA:
			g.engines[io.queue].Complete(io.ID, -int32(syscall.EIO))
		default:
			g.engines[io.queue].Complete(io.ID, int32(io.Length))
		}
	}
	for _, op := range ops {
		if g.rng.IntN(in) != 0 {
			g.ops = append(g.ops, op)
			continue
		}
		if op.Read {
			_, err := g.disk.ReadAt(op.Data, op.Offset)
			g.com.Done(op.ID, err)
			continue
		}
		if op.FUA {
			g.writes++
		}
		_, err := g.disk.WriteAt(op.Data, op.Offset)
		g.com.Done(op.ID, err)
	}
	// As the keeper does: all messages, then the Committer.
	for len(g.toA)+len(g.toE) > 0 {
		toA, toE := g.toA, g.toE
		g.toA, g.toE = nil, nil
		for i := range toA {
			g.arbiter.Receive(&toA[i])
		}
		for i := range toE {
			g.engines[toE[i].Queue].Answer(&toE[i])
		}
	}
	for {
		g.ops = append(g.ops, g.com.Ops()...)
		results := slices.Clone(g.com.Results())
		for _, r := range results {
			g.arbiter.Committed(Ticket(r.Ticket), r.Outcome == metadata.OutcomeDurable)
		}
		g.arbiter.Advance()
		if len(results) == 0 {
			return
		}
	}
}

// TestGroupCommitOfHeals: a thousand requests that fail and are healed at the same time share
// their commits, each of which is one FUA write for each mirror.
func TestGroupCommitOfHeals(t *testing.T) {
	for _, c := range []struct{ in, most int }{{1, 8}, {2, 20}, {4, 20}} {
		for seed := range uint64(5) { // fixed: the numbers of commits are those of these orders
			t.Run(fmt.Sprintf("one in %d/seed %d", c.in, seed), func(t *testing.T) {
				g := newHerd(t, seed)
				before := g.com.Status().Sequence
				for q, e := range g.engines {
					for tag := range herdDepth {
						e.Submit(&Request{Tag: uint16(tag), Op: OpWrite,
							Block: 1000 + uint64(q*herdDepth+tag)*7, Count: 1})
					}
				}
				for rounds := 0; g.finished < herdQueues*herdDepth; rounds++ {
					if rounds == 10_000 {
						t.Fatalf("%d requests were answered", g.finished)
					}
					g.round(c.in)
				}
				for range 100 {
					g.round(1)
				}
				commits := int(g.com.Status().Sequence - before)
				t.Logf("%d heals in %d commits", g.finished, commits)
				if commits > c.most {
					t.Errorf("%d commits, want at most %d", commits, c.most)
				}
				if mirrors := len(g.com.Status().Mirrors); g.writes != mirrors*commits {
					t.Errorf("%d FUA writes for %d commits on %d mirrors", g.writes, commits,
						mirrors)
				}
				img, err := metadata.Load([]metadata.Device{g.disk})
				noError(t, err)
				r, err := Restore(img.Layout(), img.Replay)
				noError(t, err)
				if got := r.Map.Counts().Mapped; got != herdQueues*herdDepth {
					t.Errorf("%d remaps are on the disk", got)
				}
			})
		}
	}
}
