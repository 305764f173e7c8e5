package server

import (
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// countOf sums the buckets of a histogram.
func countOf(h control.Histogram) (n uint64) {
	for _, b := range h.Buckets {
		n += b.Count
	}
	return n
}

// counts are the requests by operation and path, and the operations by disk and operation.
func counts(l *control.Latencies) map[string]uint64 {
	m := map[string]uint64{}
	for _, r := range l.Requests {
		m[r.Operation+" "+r.Path] = countOf(r.Histogram)
	}
	for _, d := range l.Disks {
		m[d.Disk+" "+d.Operation] = countOf(d.Histogram)
	}
	return m
}

// TestTiming: what a queue has done is counted by operation, path and errno.
func TestTiming(t *testing.T) {
	r := newFakeRing(t, false)
	complete := func(errno syscall.Errno) {
		for _, op := range r.take() {
			res := -int32(errno)
			if errno == 0 && op.kind != "flush" {
				res = int32(op.n)
			}
			r.h.Complete(op.id, res)
		}
	}
	r.h.Request(request(1, ublk.OpRead, 0, 100, 1))
	r.h.Request(request(2, ublk.OpWrite, 0, 200, 1))
	r.h.EndBatch()
	complete(0)
	r.h.Request(request(1, ublk.OpFlush, 0, 0, 0))
	complete(0)
	r.h.Request(request(3, ublk.OpRead, 0, 300, 1))
	complete(syscall.ETIMEDOUT)
	r.h.Request(request(3, ublk.OpWrite, 0, 400, 1))
	complete(syscall.Errno(5000)) // no errno of Linux; it must not be out of range
	r.h.EndBatch()
	l := mergeFigures([]*figures{r.h.timing.figures, new(figures)})
	got := counts(l)
	for what, want := range map[string]uint64{"read home": 2, "write home": 2, "backing read": 2,
		"backing write": 2, "flush spare": 1, "backing flush": 1, "spare flush": 1} {
		if got[what] != want {
			t.Errorf("%s: %d, want %d", what, got[what], want)
		}
		delete(got, what)
	}
	if len(got) > 0 {
		t.Errorf("and %v", got)
	}
	want := control.DiskErrors{Disk: "backing", Operation: "read", Errno: int(syscall.ETIMEDOUT),
		Cause: "path", Count: 1}
	if len(l.Errors) != 2 || l.Errors[0] != want || l.Errors[1].Errno != maxErrno {
		t.Errorf("%+v", l.Errors)
	}
	if l.Depth.Sum != 1+2+1+1+1 || l.Depth.Counts[0] != 4 || l.Depth.Counts[1] != 1 {
		t.Errorf("%+v", l.Depth)
	}
}

// TestOneClockReadingATurn: all that happens in a turn has one time, and the next turn another.
func TestOneClockReadingATurn(t *testing.T) {
	r := newFakeRing(t, false)
	if r.h.timing.turn != 0 {
		t.Fatal("the clock was read before anything came")
	}
	r.h.Request(request(1, ublk.OpRead, 0, 100, 1))
	first := r.h.timing.turn
	time.Sleep(time.Millisecond)
	r.h.Request(request(2, ublk.OpRead, 0, 200, 1))
	if first == 0 || r.h.timing.turn != first || r.h.timing.began[2] != first ||
		r.h.timing.issued[1].at != first {
		t.Errorf("a second reading: %+v", r.h.timing.began)
	}
	r.h.EndBatch()
	if r.h.timing.turn != 0 {
		t.Error("the turn goes on")
	}
	for _, op := range r.take() {
		r.h.Complete(op.id, int32(op.n))
	}
	if r.h.timing.turn <= first {
		t.Error("the next turn has no time of its own")
	}
	l := mergeFigures([]*figures{r.h.timing.figures})
	if len(l.Requests) != 1 || l.Requests[0].SumNS < 2*uint64(time.Millisecond) {
		t.Errorf("%+v", l.Requests)
	}
}

// TestTimedOneIn: of many requests about one in so many is timed, whatever their pattern, and one
// that met a bad block always is.
func TestTimedOneIn(t *testing.T) {
	const every, all = 16, 1 << 16
	tm := newTiming(every, 3, 4, 4)
	for i := range all {
		tag := uint16(i % 4)
		tm.requestCame(tag, 1)
		// Writes alternate with reads.
		tm.requestEnded(tag, remap.Answer{Op: remap.Op(i % 2), Way: remap.WayHome})
		tm.turn = 0
	}
	for op := range 2 {
		got := counts(mergeFigures([]*figures{tm.figures}))[opNames[op]+" home"]
		if got < all/2/every*8/10 || got > all/2/every*12/10 {
			t.Errorf("%s: %d of %d were timed", opNames[op], got, all/2)
		}
	}
	tm.skip = 5
	tm.requestCame(1, 1)
	tm.requestEnded(1, remap.Answer{Way: remap.WayHeal, Met: tm.clock() - int64(time.Second)})
	h := mergeFigures([]*figures{tm.figures})
	for _, r := range h.Requests {
		if r.Path == "heal" && (countOf(r.Histogram) != 1 || r.SumNS != uint64(time.Second)) {
			t.Errorf("%+v", r)
		}
	}
	if counts(h)["read heal"] != 1 {
		t.Error("a request that met a bad block is not counted")
	}
}

func TestEveryOf(t *testing.T) {
	for cost, want := range map[time.Duration]int{0: 1, 40 * time.Nanosecond: 1,
		150 * time.Nanosecond: 1, 151 * time.Nanosecond: 8, time.Microsecond: 64,
		3500 * time.Nanosecond: 256, time.Second: maxEvery} {
		if got := everyOf(cost); got != want {
			t.Errorf("%v: 1 in %d, want %d", cost, got, want)
		}
	}
	if got := timedOneIn(); got < 1 || got > maxEvery {
		t.Errorf("here it is 1 in %d", got)
	}
}

// TestTimingAllocatesNothing, and readers may look at any time.
func TestTimingAllocatesNothing(t *testing.T) {
	tm := newTiming(1, 0, 4, 4)
	var readers sync.WaitGroup
	end := make(chan struct{})
	readers.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
				mergeFigures([]*figures{tm.figures})
				time.Sleep(time.Millisecond)
			}
		}
	})
	for range 1000 {
		timeOne(&tm)
	}
	close(end)
	readers.Wait()
	if n := testing.AllocsPerRun(1000, func() { timeOne(&tm) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}

// timeOne is what one request costs.
func timeOne(tm *timing) {
	io := remap.IO{ID: 2, Tag: 1}
	tm.requestCame(1, 7)
	tm.operationIssued(&io)
	tm.operationEnded(2, 4096)
	tm.requestEnded(1, remap.Answer{Way: remap.WayHome})
	tm.turn = 0
}

func BenchmarkTiming(b *testing.B) {
	for _, every := range []int{1, 256} {
		b.Run("one in "+strconv.Itoa(every), func(b *testing.B) {
			tm := newTiming(every, 0, 4, 4)
			b.ReportAllocs()
			for range b.N {
				timeOne(&tm)
			}
		})
	}
}
