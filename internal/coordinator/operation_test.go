package coordinator

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
)

const whole = 8192

// TestOperations: the test checks which reads, writes and flushes carry out an operation of the
// Committer, in which order, and what their results mean.
func TestOperations(t *testing.T) {
	const eio, again = -int32(syscall.EIO), -int32(syscall.ENOMEM)
	long := metadata.RetryLimits{Resources: time.Hour, Path: time.Hour}
	none := metadata.RetryLimits{Resources: -1, Path: -1}
	for _, c := range []struct {
		name    string
		op      metadata.Op
		limits  metadata.RetryLimits
		results []int32 // of the calls, in order; further calls succeed
		calls   []string
		errno   syscall.Errno
		flush   bool // it fails for a flush
	}{
		{name: "record", op: metadata.Op{FUA: true, Offset: 4096}, results: []int32{whole, 0},
			calls: []string{"write 0 @4096+8192", "flush 0"}},
		{name: "on a spare device", op: metadata.Op{FUA: true, Device: 1},
			results: []int32{whole, 0}, calls: []string{"write 1 @0+8192", "flush 1"}},
		{name: "read", op: metadata.Op{Read: true}, results: []int32{whole},
			calls: []string{"read 0 @0+8192"}},
		{name: "short writes", op: metadata.Op{FUA: true}, results: []int32{3072, 3072, 2048, 0},
			calls: []string{"write 0 @0+8192", "write 0 @3072+5120", "write 0 @6144+2048",
				"flush 0"}},
		{name: "short read", op: metadata.Op{Read: true}, results: []int32{4096, 4096},
			calls: []string{"read 0 @0+8192", "read 0 @4096+4096"}},
		{name: "part of a block", op: metadata.Op{Read: true}, results: []int32{700, whole - 512},
			calls: []string{"read 0 @0+8192", "read 0 @512+7680"}},
		{name: "failed write", op: metadata.Op{FUA: true}, limits: long, results: []int32{eio},
			calls: []string{"write 0 @0+8192"}, errno: syscall.EIO},
		{name: "the rest of a write fails", op: metadata.Op{FUA: true}, limits: long,
			results: []int32{4096, eio}, calls: []string{"write 0 @0+8192", "write 0 @4096+4096"},
			errno: syscall.EIO},
		{name: "failed read", op: metadata.Op{Read: true}, limits: long, results: []int32{eio},
			calls: []string{"read 0 @0+8192"}, errno: syscall.EIO},
		{name: "nothing written", op: metadata.Op{FUA: true}, limits: none, results: []int32{0},
			calls: []string{"write 0 @0+8192"}, errno: syscall.ENXIO},
		{name: "nothing read", op: metadata.Op{Read: true}, limits: none, results: []int32{511},
			calls: []string{"read 0 @0+8192"}, errno: syscall.ENXIO},
		{name: "failed flush", op: metadata.Op{FUA: true}, limits: long,
			results: []int32{whole, eio}, calls: []string{"write 0 @0+8192", "flush 0"},
			errno: syscall.EIO, flush: true},
		{name: "flush whose path fails", op: metadata.Op{FUA: true}, limits: long,
			results: []int32{whole, -int32(syscall.ENOLINK)},
			calls:   []string{"write 0 @0+8192", "flush 0"}, errno: syscall.ENOLINK, flush: true},
		{name: "flush that was not carried out", op: metadata.Op{FUA: true}, limits: long,
			results: []int32{whole, again, again, 0},
			calls:   []string{"write 0 @0+8192", "flush 0", "flush 0", "flush 0"}},
		{name: "flush that never is", op: metadata.Op{FUA: true}, limits: none,
			results: []int32{whole, again}, calls: []string{"write 0 @0+8192", "flush 0"},
			errno: syscall.ENOMEM},
		{name: "no memory for a while", op: metadata.Op{FUA: true}, limits: long,
			results: []int32{4096, again, again, whole, 0},
			calls: []string{"write 0 @0+8192", "write 0 @4096+4096", "write 0 @0+8192",
				"write 0 @0+8192", "flush 0"}},
		{name: "a path that comes back", op: metadata.Op{Read: true}, limits: long,
			results: []int32{-int32(syscall.ENOLINK), whole},
			calls:   []string{"read 0 @0+8192", "read 0 @0+8192"}},
		{name: "no retry", op: metadata.Op{Read: true}, limits: none, results: []int32{again},
			calls: []string{"read 0 @0+8192"}, errno: syscall.ENOMEM},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.limits)
			c.op.ID, c.op.Data = 7, make([]byte, whole)
			r.com.ops = []metadata.Op{c.op}
			r.Step()
			for n := 0; len(r.ios) > 0 || r.Deadline() != 0; n++ {
				if len(r.ios) == 0 {
					r.sleep(r.after(r.Deadline()))
					continue
				}
				if _, ended := r.com.done[7]; ended {
					t.Fatalf("it ended with %v under way", r.ios)
				}
				res := int32(len(r.ios[0].Data))
				if n = len(r.calls) - 1; n < len(c.results) {
					res = c.results[n]
				}
				r.answer(res)
			}
			err, ended := r.com.done[7]
			if !ended || (c.errno == 0) != (err == nil) || c.errno != 0 &&
				!errors.Is(err, c.errno) {
				t.Errorf("ended %v: %v, want errno %d", ended, err, c.errno)
			}
			if errors.Is(err, metadata.ErrFlush) != c.flush {
				t.Errorf("taken for a flush: %v", err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "/dev/a: ") {
				t.Errorf("it does not name the device: %v", err)
			}
			if !slices.Equal(r.calls, c.calls) {
				t.Errorf("calls %q, want %q", r.calls, c.calls)
			}
			failed := 0
			if c.flush {
				failed = 1
			}
			if n := r.shared.FailedFlushes(c.op.Device); n != uint64(failed) ||
				r.shared.UnreportedFlush() != c.flush || len(r.flushFailed) != failed ||
				r.Status().FlushErrors != uint64(failed) {
				t.Errorf("%d flushes count as failed, want %d", n, failed)
			}
			if i := slices.IndexFunc(r.operations, func(o operation) bool {
				return o.step != stepFree
			}); i >= 0 {
				t.Errorf("operation %d is left", i)
			}
		})
	}
}

// TestRetryEnds: an operation that does not get better fails when its time is up.
func TestRetryEnds(t *testing.T) {
	for _, c := range []struct {
		errno    syscall.Errno
		transfer bool
		lasts    time.Duration
	}{
		{syscall.ENOMEM, false, time.Second},
		{syscall.ETIMEDOUT, false, 100 * time.Millisecond},
		{syscall.ENODATA, false, 0},
		{syscall.EBUSY, true, time.Second},
		{syscall.ETIMEDOUT, true, 0}, // the Arbiter's to judge
		{syscall.EIO, true, 0},
	} {
		r := newRig(t, metadata.RetryLimits{Resources: time.Second, Path: 100 * time.Millisecond})
		r.begin(operation{op: 1, transfer: c.transfer, read: true, data: make([]byte, whole)})
		began := r.now
		for len(r.ios) > 0 {
			r.answer(-int32(c.errno))
			if due := r.Deadline(); due != 0 {
				r.sleep(r.after(due))
			}
		}
		if lasted := time.Duration(r.now - began); lasted != c.lasts {
			t.Errorf("%v, transfer %v: tried for %v, want %v", c.errno, c.transfer, lasted, c.lasts)
		}
		if _, ended := r.com.done[1]; ended == c.transfer {
			t.Errorf("%v: the Committer is told %v", c.errno, r.com.done)
		}
	}
}

// TestNothingIsNoMediumError: a disk that answers with less than one block has no such place any
// more. Nothing may count as bad for that.
func TestNothingIsNoMediumError(t *testing.T) {
	if c := metadata.Classify(int32(errNothing)); c != metadata.ClassPath {
		t.Errorf("%v is of class %d", errNothing, c)
	}
}

// TestFlushHasItsOwnTime: the time that a write has waited for resources does not count for the
// flush that follows it.
func TestFlushHasItsOwnTime(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{Resources: time.Second})
	r.begin(operation{op: 1, durable: true, data: make([]byte, whole)})
	lasted := func() time.Duration {
		began := r.now
		for len(r.ios) > 0 && r.now-began < int64(900*time.Millisecond) {
			r.answer(-int32(syscall.ENOMEM))
			r.sleep(r.after(r.Deadline()))
		}
		return time.Duration(r.now - began)
	}
	lasted()
	r.answer(whole)
	if d := lasted(); d < 900*time.Millisecond {
		t.Errorf("the flush was asked for during %v", d)
	}
	r.answer(0)
	if err, ended := r.com.done[1]; !ended || err != nil {
		t.Errorf("ended %v: %v", ended, err)
	}

	r.begin(operation{op: 2, durable: true, data: make([]byte, whole)})
	r.answer(whole)
	for len(r.ios) > 0 {
		r.answer(-int32(syscall.ENOMEM))
		if due := r.Deadline(); due != 0 {
			r.sleep(r.after(due))
		}
	}
	err := r.com.done[2]
	if err == nil || errors.Is(err, metadata.ErrFlush) ||
		!strings.Contains(err.Error(), "flush after a write") {
		t.Errorf("a flush that was never carried out: %v", err)
	}
}

// TestOtherFlushFails: a write that waits in the cache for its own flush may be dropped when
// another flush fails. This holds even if that failure becomes known only after its own flush has
// gone well.
func TestOtherFlushFails(t *testing.T) {
	for _, fails := range []bool{false, true} {
		r := newRig(t, metadata.RetryLimits{})
		other := r.shared.Durable(0)
		other.Begin()
		r.com.ops = []metadata.Op{{ID: 7, FUA: true, Data: make([]byte, whole)}}
		r.Step()
		r.answer(whole)
		r.answer(0)
		for range 3 {
			r.sleep(time.Millisecond)
			if _, ended := r.com.done[7]; ended || r.Deadline() == 0 {
				t.Fatalf("ended %v before it is known how the other flush did", ended)
			}
		}
		if fails {
			other.End(-int32(syscall.EIO))
		} else {
			other.End(0)
		}
		r.sleep(time.Millisecond)
		err, ended := r.com.done[7]
		if !ended || errors.Is(err, metadata.ErrFlush) != fails || (err != nil) != fails {
			t.Errorf("the other flush fails: %v; ended %v: %v", fails, ended, err)
		}
	}
}

// TestAllUnderWay: many operations are under way at a time, and end in another order.
func TestAllUnderWay(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{})
	const n = 3 * operationsAtFirst
	for i := range n {
		r.com.ops = append(r.com.ops, metadata.Op{ID: metadata.OpID(i), Read: i%2 == 0,
			FUA: i%2 == 1, Offset: int64(i) * whole, Data: make([]byte, whole)})
	}
	r.Step()
	for len(r.ios) > 0 {
		last := len(r.ios) - 1
		r.ios[0], r.ios[last] = r.ios[last], r.ios[0]
		r.answer(int32(len(r.ios[0].Data)))
	}
	if len(r.com.done) != n {
		t.Errorf("%d of %d ended", len(r.com.done), n)
	}
	for id, err := range r.com.done {
		if err != nil {
			t.Errorf("%d: %v", id, err)
		}
	}
}

// TestOperationsAllocateNothing: records must be written while memory is short.
func TestOperationsAllocateNothing(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{})
	data := make([]byte, whole)
	d := &silent{rig: r}
	r.drv = d
	if n := testing.AllocsPerRun(100, func() {
		r.begin(operation{op: 1, durable: true, data: data})
		for range 2 {
			io := d.last
			r.Done(io.ID, int32(len(io.Data)))
		}
		r.Tick()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// silent is a driver that keeps the last IO only.
type silent struct {
	*rig
	last IO
}

func (d *silent) Issue(io *IO) { d.last = *io }
