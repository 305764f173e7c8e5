package server

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// fakeDisks are system calls that note what was asked for, and answer as they are told to.
type fakeDisks struct {
	mu    sync.Mutex
	calls []string
	most  int                      // bytes that one call moves at most; 0: all
	fail  func(call string) error  // nil: nothing fails
	hold  map[string]chan struct{} // a call waits until its channel is closed
	begun chan string              // is told of each call that waits
}

func (d *fakeDisks) call(call string) error {
	d.mu.Lock()
	d.calls = append(d.calls, call)
	hold, fail := d.hold[call], d.fail
	d.mu.Unlock()
	if hold != nil {
		d.begun <- call
		<-hold
	}
	if fail != nil {
		return fail(call)
	}
	return nil
}

func (d *fakeDisks) moved(n int) int {
	if d.most > 0 {
		return min(n, d.most)
	}
	return n
}

func (d *fakeDisks) pread(device uint8, p []byte, off int64) (int, error) {
	if err := d.call(fmt.Sprintf("read %d @%d+%d", device, off, len(p))); err != nil {
		return 0, err
	}
	return d.moved(len(p)), nil
}

func (d *fakeDisks) pwrite(device uint8, p []byte, off int64) (int, error) {
	if err := d.call(fmt.Sprintf("write %d @%d+%d", device, off, len(p))); err != nil {
		return 0, err
	}
	return d.moved(len(p)), nil
}

func (d *fakeDisks) fdatasync(device uint8) error { return d.call(fmt.Sprintf("flush %d", device)) }

// newShared is what the queues of a small device share.
func newShared() *remap.Shared {
	geo := remap.Geometry{BlockSize: 4096, Blocks: 1 << 10, Devices: 2,
		Spares: []remap.SpareExtent{{Count: 16, Offset: 4096 << 10}}}
	return remap.NewShared(geo, remap.NewMap(geo.Units(), 1))
}

// TestWorkersMakeDurable: which system calls carry out a job, in which order, and what
// their errors mean.
func TestWorkersMakeDurable(t *testing.T) {
	// It fails once: whoever tries again is told that all is well.
	failing := func(failing string, errno unix.Errno) func(string) error {
		failed := false
		return func(call string) error {
			if failed || call != failing {
				return nil
			}
			failed = true
			return errno
		}
	}
	data := make([]byte, 8192)
	for _, c := range []struct {
		name      string
		job       job
		most      int
		fail      func(string) error
		calls     []string
		errno     unix.Errno
		unflushed bool
		failed    uint64 // flushes
	}{
		{name: "a record", job: job{durable: true, offset: 4096},
			calls: []string{"write 0 @4096+8192", "flush 0"}},
		{name: "on a spare device", job: job{durable: true, device: 1},
			calls: []string{"write 1 @0+8192", "flush 1"}},
		{name: "a read", job: job{read: true}, calls: []string{"read 0 @0+8192"}},
		{name: "short writes", job: job{durable: true}, most: 3072,
			calls: []string{"write 0 @0+8192", "write 0 @3072+5120", "write 0 @6144+2048",
				"flush 0"}},
		{name: "short reads", job: job{read: true}, most: 4096, calls: []string{"read 0 @0+8192",
			"read 0 @4096+4096"}},
		{name: "a write that fails", job: job{durable: true}, fail: failing("write 0 @0+8192",
			unix.EIO), calls: []string{"write 0 @0+8192"}, errno: unix.EIO},
		{name: "the rest of a write fails", job: job{durable: true}, most: 4096,
			fail:  failing("write 0 @4096+4096", unix.EIO),
			calls: []string{"write 0 @0+8192", "write 0 @4096+4096"}, errno: unix.EIO},
		{name: "a read that fails", job: job{read: true}, fail: failing("read 0 @0+8192", unix.EIO),
			calls: []string{"read 0 @0+8192"}, errno: unix.EIO},
		{name: "a flush that fails", job: job{durable: true}, fail: failing("flush 0", unix.EIO),
			calls: []string{"write 0 @0+8192", "flush 0"},
			errno: unix.EIO, unflushed: true, failed: 1},
		{name: "a flush without resources", job: job{durable: true},
			fail: failing("flush 0", unix.ENOMEM), calls: []string{"write 0 @0+8192", "flush 0"},
			errno: unix.ENOMEM},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &fakeDisks{most: c.most, fail: c.fail}
			shared := newShared()
			w := &workers{disks: d, shared: shared}
			c.job.data = data
			errno, unflushed := w.do(&c.job)
			if errno != c.errno || unflushed != c.unflushed {
				t.Errorf("answered %v, unflushed %v; want %v, %v", errno, unflushed, c.errno,
					c.unflushed)
			}
			if !slices.Equal(d.calls, c.calls) {
				t.Errorf("system calls %q, want %q", d.calls, c.calls)
			}
			if n := shared.FailedFlushes(c.job.device); n != c.failed {
				t.Errorf("%d flushes count as failed, want %d", n, c.failed)
			}
			if shared.UntoldFlush() != (c.failed > 0) {
				t.Errorf("there is a flush to be told of: %v", shared.UntoldFlush())
			}
		})
	}
}

// TestWorkersNothingMoved: a write of no bytes is no success, and neither is a read past the end.
func TestWorkersNothingMoved(t *testing.T) {
	for _, read := range []bool{false, true} {
		w := &workers{disks: nothing{}, shared: newShared()}
		if errno, _ := w.do(&job{read: read, durable: !read,
			data: make([]byte, 4096)}); errno != unix.EIO {
			t.Errorf("read %v: answered %v", read, errno)
		}
	}
}

// nothing are disks that move nothing and say that all is well.
type nothing struct{}

func (nothing) pread(uint8, []byte, int64) (int, error)  { return 0, nil }
func (nothing) pwrite(uint8, []byte, int64) (int, error) { return 0, nil }
func (nothing) fdatasync(uint8) error                    { return nil }

// TestWorkersInterrupted: an interrupted call is made again.
func TestWorkersInterrupted(t *testing.T) {
	times := map[string]int{}
	d := &fakeDisks{fail: func(call string) error {
		if times[call]++; times[call] < 3 {
			return unix.EINTR
		}
		return nil
	}}
	shared := newShared()
	w := &workers{disks: d, shared: shared}
	if errno, _ := w.do(&job{durable: true, data: make([]byte, 4096)}); errno != 0 ||
		shared.UntoldFlush() {
		t.Errorf("answered %v, a flush to be told of: %v", errno, shared.UntoldFlush())
	}
	if len(d.calls) != 6 {
		t.Errorf("system calls %q", d.calls)
	}
}

// TestWorkersOtherFlushFails: a write that waits in the cache for its own flush may be
// dropped by another one that fails, also if that is known only after its own flush has
// gone well.
func TestWorkersOtherFlushFails(t *testing.T) {
	shared := newShared()
	other := shared.Durable(0)
	other.Begin()
	d := &fakeDisks{hold: map[string]chan struct{}{}, begun: make(chan string, 1)}
	w := startWorkers(d, shared, metadata.RetryLimits{}, func() {})
	w.submit(job{durable: true, data: make([]byte, 4096)})
	for synced := false; !synced; {
		d.mu.Lock()
		synced = slices.Contains(d.calls, "flush 0")
		d.mu.Unlock()
		if got := w.take(); len(got) != 0 {
			t.Fatalf("it ended before it was known how the other flush did: %+v", got)
		}
	}
	other.End(-int32(unix.EIO))
	w.stop()
	got := w.take()
	if len(got) != 1 || got[0].errno != unix.EIO || !got[0].unflushed {
		t.Errorf("it ended as %+v", got)
	}
	if n := shared.FailedFlushes(0); n != 1 {
		t.Errorf("%d flushes count as failed", n)
	}
}

// TestWorkersStopWaits: stop returns when all jobs have ended, also those that had not begun.
func TestWorkersStopWaits(t *testing.T) {
	d := &fakeDisks{hold: map[string]chan struct{}{}, begun: make(chan string, 2*workerCount)}
	for i := range 2 * workerCount {
		d.hold[fmt.Sprintf("write 0 @%d+4096", i*4096)] = make(chan struct{})
	}
	w := startWorkers(d, newShared(), metadata.RetryLimits{}, func() {})
	for i := range 2 * workerCount {
		w.submit(job{durable: true, offset: int64(i) * 4096, data: make([]byte, 4096)})
	}
	for range workerCount {
		<-d.begun
	}
	stopped := make(chan struct{})
	go func() {
		w.stop()
		close(stopped)
	}()
	for i := range 2 * workerCount {
		select {
		case <-stopped:
			t.Fatalf("stopped with %d writes that have not ended", 2*workerCount-i)
		default:
		}
		close(d.hold[fmt.Sprintf("write 0 @%d+4096", i*4096)])
	}
	<-stopped
	if got := w.take(); len(got) != 2*workerCount {
		t.Errorf("%d of %d jobs ended", len(got), 2*workerCount)
	}
}

// TestWorkersFailure: the Committer can tell a flush from a place that is bad.
func TestWorkersFailure(t *testing.T) {
	for _, unflushed := range []bool{false, true} {
		d := done{job: job{data: make([]byte, 4096), offset: 8192}, errno: unix.EIO,
			unflushed: unflushed}
		err := d.failure("/dev/sdx")
		if got := errors.Is(err, metadata.ErrFlush); got != unflushed || !errors.Is(err, unix.EIO) {
			t.Errorf("%v: taken for a flush: %v", err, got)
		}
	}
}

// TestWorkersArePatient: an operation of the Committer that fails for want of resources, or by the
// path, is tried again as a whole until it goes through or its time is over; one that the medium
// fails is not, and neither is a transfer. Threads that are to end wait for nothing.
func TestWorkersArePatient(t *testing.T) {
	const long = time.Hour
	data := make([]byte, 4096)
	times := func(n int, errno unix.Errno) func() func(string) error {
		return func() func(string) error {
			left := n
			return func(string) error {
				if left--; left >= 0 {
					return errno
				}
				return nil
			}
		}
	}
	for _, c := range []struct {
		name     string
		fail     func() func(string) error
		job      job
		patience metadata.RetryLimits
		errno    unix.Errno
		calls    int // 0: some
	}{
		{"no memory for a while", times(6, unix.ENOMEM), job{data: data},
			metadata.RetryLimits{Resources: long}, 0, 7},
		{"busy, durable", times(3, unix.EAGAIN), job{data: data, durable: true},
			metadata.RetryLimits{Resources: long}, 0, 5},
		{"a read", times(3, unix.EBUSY), job{data: data, read: true},
			metadata.RetryLimits{Resources: long}, 0, 4},
		{"the path for a while", times(5, unix.ENOLINK), job{data: data},
			metadata.RetryLimits{Path: long}, 0, 6},
		{"no memory for too long", times(1<<30, unix.ENOMEM), job{data: data},
			metadata.RetryLimits{Resources: time.Millisecond, Path: long}, unix.ENOMEM, 0},
		{"the path for too long", times(1<<30, unix.ETIMEDOUT), job{data: data},
			metadata.RetryLimits{Resources: long, Path: time.Millisecond}, unix.ETIMEDOUT, 0},
		{"the medium", times(1, unix.EIO), job{data: data}, metadata.RetryLimits{Resources: long,
			Path: long}, unix.EIO, 1},
		{"a transfer", times(1, unix.ENOMEM), job{data: data, isTransf: true},
			metadata.RetryLimits{Resources: long, Path: long}, unix.ENOMEM, 1},
	} {
		d := &fakeDisks{fail: c.fail()}
		w := &workers{disks: d, shared: newShared(), patience: c.patience}
		errno, _ := w.do(&c.job)
		if errno != c.errno || c.calls != 0 && len(d.calls) != c.calls {
			t.Errorf("%s: %v after %d calls, want %v after %d", c.name, errno, len(d.calls),
				c.errno, c.calls)
		}
	}
	w := startWorkers(&fakeDisks{fail: times(1<<30, unix.ENOMEM)()}, newShared(),
		metadata.RetryLimits{Resources: long}, func() {})
	w.submit(job{data: data})
	w.stop()
	if got := w.take(); len(got) != 1 || got[0].errno != unix.ENOMEM {
		t.Errorf("after the end: %+v", got)
	}
}
