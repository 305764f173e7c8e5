package server

import "testing"

// TestChurnHeapLimits: the limit follows from what the runtime measures. So it may be any number.
func TestChurnHeapLimits(t *testing.T) {
	was := heapLimit.Load()
	defer heapLimit.Store(was)
	for limit := range int64(33) {
		heapLimit.Store(limit)
		churnHeap()
		heapLimit.Store(1<<20 + limit)
		churnHeap()
	}
}
