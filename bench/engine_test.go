package bench

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// engineDriver is the cheapest driver: it keeps what was issued. The benchmark completes it.
type engineDriver struct{ ios []remap.IO }

func (d *engineDriver) Issue(io *remap.IO)   { d.ios = append(d.ios, *io) }
func (d *engineDriver) Finish(uint16, int32) {}
func (d *engineDriver) Send(*remap.Message)  {}
func (d *engineDriver) Now() int64           { return 0 }

// next returns the operation that was issued last.
func (d *engineDriver) next() remap.IO {
	io := d.ios[len(d.ios)-1]
	d.ios = d.ios[:len(d.ios)-1]
	return io
}

// newEngine returns an engine over a disk of 1 TiB with 4 KiB blocks. Every 128th block is remapped
// until there are enough remaps.
func newEngine(remaps int) (*remap.Engine, *engineDriver) {
	geo := remap.Geometry{
		BlockSize: 4096, Blocks: 1 << 28, Devices: 1, HeadBlocks: 256, HeadOffset: 1 << 40,
		Spares: []remap.SpareExtent{{Count: 1 << 24, Offset: 1 << 41}},
	}
	b := remap.NewBuilder(geo.Units(), 1)
	for i := range remaps {
		b.Apply(metadata.Entry{Unit: uint64(i) * 128, Spare: uint32(i), Count: 1, Mask: 1,
			State: metadata.StateMapped})
	}
	d := &engineDriver{ios: make([]remap.IO, 0, 512)}
	return remap.NewEngine(remap.EngineConfig{Depth: 128, MaxBlocks: 256, ZeroBlocks: 16},
		remap.NewShared(geo, b.Map()), d), d
}

// BenchmarkEngine measures the engine's share of one request: it is submitted, carried out at once,
// completed, answered, and counted as at the end of a batch of one.
func BenchmarkEngine(b *testing.B) {
	for _, c := range []struct {
		name   string
		remaps int
		count  uint32
		hit    bool
	}{
		{"4k/remaps=0", 0, 1, false},
		{"4k/remaps=1M/miss", 1 << 20, 1, false},
		{"4k/remaps=1M/hit", 1 << 20, 1, true},
		{"1MiB/remaps=0", 0, 256, false},
		{"1MiB/remaps=1M", 1 << 20, 256, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			e, d := newEngine(c.remaps)
			rng := rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			defer perCPU(b)()
			for b.Loop() {
				block := rng.Uint64N(1 << 27)
				switch {
				case c.hit:
					block &^= 127
				case c.count == 1:
					block |= 1
				}
				r := remap.Request{Tag: 3, Op: remap.OpWrite, Block: block, Count: c.count}
				e.Submit(&r)
				for e.Inflight() > 0 {
					io := d.next()
					e.Complete(io.ID, int32(io.Length))
				}
				e.Publish()
			}
		})
	}
}

// BenchmarkEngineHeal measures the engine's share of a heal, from the first error of a single block
// to the answer, including its retries.
func BenchmarkEngineHeal(b *testing.B) {
	e, d := newEngine(0)
	b.ReportAllocs()
	defer perCPU(b)()
	for b.Loop() {
		r := remap.Request{Tag: 3, Op: remap.OpWrite, Block: 5000, Count: 1}
		e.Submit(&r)
		for range 1 + remap.DefaultRetries {
			e.Complete(d.next().ID, -int32(syscall.EIO))
		}
		e.Answer(&remap.Message{Kind: remap.MsgReserved, Tag: 3, Spare: 9, Count: 1})
		e.Complete(d.next().ID, 4096) // written
		e.Complete(d.next().ID, 4096) // and read back
		e.Answer(&remap.Message{Kind: remap.MsgCommitted, Tag: 3})
		if e.Inflight() != 0 {
			b.Fatal("not finished")
		}
	}
}
