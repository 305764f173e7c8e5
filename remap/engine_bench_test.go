package remap

import "testing"

// BenchmarkEngine is what the Engine costs for a request that meets nothing bad, without
// its driver.
func BenchmarkEngine(b *testing.B) {
	for _, c := range []struct {
		name string
		r    Request
	}{
		{"read", Request{Op: OpRead, Block: 1000, Count: 8}},
		{"write", Request{Op: OpWrite, Block: 1000, Count: 8}},
		{"FUA", Request{Op: OpWrite, FUA: true, Block: 1000, Count: 8}},
		{"flush", Request{Op: OpFlush}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, 512, 64)
			d := &instant{}
			e := NewEngine(EngineConfig{Depth: 1, MaxBlocks: 64, ZeroBlocks: 8}, r.s, d)
			b.ReportAllocs()
			for b.Loop() {
				e.Submit(&c.r)
				e.Complete(d.io.ID, int32(d.io.Length))
			}
		})
	}
}
