package remap

import (
	"slices"
	"syscall"
	"testing"
)

// TestInternalReadNamesWeakBlocks: blocks that were read on a retry are weak, but not those that
// only failed together with a bad one.
func TestInternalReadNamesWeakBlocks(t *testing.T) {
	weak := func(end internalEnd) (blocks []uint32) {
		for b := range uint32(64) {
			if end.Weak.Has(b) {
				blocks = append(blocks, b)
			}
		}
		return blocks
	}
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.ENODATA)
	if end := r.readInternal(1000, 64); len(weak(end)) != 0 ||
		!slices.Equal(end.failed, []uint32{3}) {
		t.Errorf("beside a bad block: weak %v, failed %v", weak(end), end.failed)
	}
	if end := r.readInternal(2000, 64); len(weak(end)) != 0 {
		t.Errorf("nothing is wrong: weak %v", weak(end))
	}
	// The whole read fails, and everything reads after that.
	r.internal = nil
	r.submitInternal(0, 3000, 16)
	id := r.ios[0].ID
	r.ios = r.ios[1:]
	r.e.Complete(id, -int32(syscall.ENODATA))
	r.run()
	if got := weak(r.internal[0]); len(got) != 16 || len(r.internal[0].failed) != 0 {
		t.Errorf("fails at first: weak %v, failed %v", got, r.internal[0].failed)
	}
}
