package ublk

import (
	"testing"

	"ublkremap/ublk/internal/uapi"
)

// FuzzAnswers decodes what a kernel may put into the structs of the ABI: any
// bytes become values that can be used without a panic.
func FuzzAnswers(f *testing.F) {
	good := Params{Size: 1 << 30, VolatileCache: true, FUA: true,
		Discard: &DiscardParams{MaxDiscard: 1 << 20}, Segments: &SegmentParams{4095, 4096, 1}}
	k := good.encode(1 << 19)
	f.Add(append([]byte(nil), bytesOf(&k)...),
		append([]byte(nil), bytesOf(&uapi.CtrlDevInfo{NrHWQueues: 2, QueueDepth: 128,
			DevID: 7})...))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, params, info []byte) {
		var k uapi.Params
		copy(bytesOf(&k), params)
		p := decodeParams(&k)
		if err := p.validate(); err == nil {
			// What makes sense means the same when it is sent back.
			back := p.encode(1 << 20)
			if again := decodeParams(&back); again.Size != p.Size ||
				again.LogicalBlockSize != max(p.LogicalBlockSize, 512) {
				t.Fatalf("%+v became %+v", p, again)
			}
		}
		var c uapi.CtrlDevInfo
		copy(bytesOf(&c), info)
		i := decodeInfo(&c)
		if i.State.String() == "" || i.BlockPath() == "" || i.CharPath() == "" || i.Queues < 0 ||
			i.Depth < 0 {
			t.Fatalf("%+v", i)
		}
		_ = i.Features.String()
		_, _ = i.ZeroCopy(), i.Recoverable()
	})
}
