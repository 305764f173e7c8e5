package server

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/internal/coordinator"
	"ublkremap/remap"
)

// fakeDisks are system calls that record what was asked for, and answer as the test says.
type fakeDisks struct {
	mu    sync.Mutex
	calls []string
	most  int                      // bytes that one call moves at most; 0: all
	fail  func(call string) error  // nil: nothing fails
	hold  map[string]chan struct{} // a call waits until its channel is closed
	begun chan string              // receives an element for each call that waits
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

// TestWorkersCall: each operation is one system call on its device. Its result is handed on
// unchanged: short, nothing, or an error. Package coordinator decides what follows from it.
func TestWorkersCall(t *testing.T) {
	data := make([]byte, 8192)
	for _, c := range []struct {
		name string
		io   coordinator.IO
		most int
		fail error
		call string
		res  int32
	}{
		{name: "read", io: coordinator.IO{Kind: coordinator.Read, Offset: 4096},
			call: "read 0 @4096+8192", res: 8192},
		{name: "write", io: coordinator.IO{Kind: coordinator.Write, Device: 1, Offset: 4096},
			call: "write 1 @4096+8192", res: 8192},
		{name: "durable write", io: coordinator.IO{Kind: coordinator.Write, Durable: true},
			call: "write 0 @0+8192", res: 8192},
		{name: "flush", io: coordinator.IO{Kind: coordinator.Flush, Device: 1}, call: "flush 1"},
		{name: "short read", io: coordinator.IO{Kind: coordinator.Read}, most: 3072,
			call: "read 0 @0+8192", res: 3072},
		{name: "short write", io: coordinator.IO{Kind: coordinator.Write}, most: 3072,
			call: "write 0 @0+8192", res: 3072},
		{name: "failed read", io: coordinator.IO{Kind: coordinator.Read}, fail: unix.ENODATA,
			call: "read 0 @0+8192", res: -int32(unix.ENODATA)},
		{name: "failed write", io: coordinator.IO{Kind: coordinator.Write}, fail: unix.ENOSPC,
			call: "write 0 @0+8192", res: -int32(unix.ENOSPC)},
		{name: "failed flush", io: coordinator.IO{Kind: coordinator.Flush}, fail: unix.EIO,
			call: "flush 0", res: -int32(unix.EIO)},
		{name: "an error without a number", io: coordinator.IO{Kind: coordinator.Flush},
			fail: fmt.Errorf("odd"), call: "flush 0", res: -int32(unix.EIO)},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The call fails once. A second call succeeds.
			failed := false
			d := &fakeDisks{most: c.most, fail: func(string) error {
				if failed {
					return nil
				}
				failed = true
				return c.fail
			}}
			if c.io.Kind != coordinator.Flush {
				c.io.Data = data
			}
			if res := (&workers{disks: d}).do(&c.io); res != c.res {
				t.Errorf("answered %d, want %d", res, c.res)
			}
			if !slices.Equal(d.calls, []string{c.call}) {
				t.Errorf("system calls %q, want %q", d.calls, c.call)
			}
		})
	}
}

// TestWorkersNothingMoved: the result of a call that moved nothing is handed on.
func TestWorkersNothingMoved(t *testing.T) {
	for _, kind := range []coordinator.Kind{coordinator.Read, coordinator.Write} {
		w := &workers{disks: nothing{}}
		if res := w.do(&coordinator.IO{Kind: kind, Data: make([]byte, 4096)}); res != 0 {
			t.Errorf("kind %d: answered %d", kind, res)
		}
	}
}

// nothing are disks that move nothing and report success.
type nothing struct{}

func (nothing) pread(uint8, []byte, int64) (int, error)  { return 0, nil }
func (nothing) pwrite(uint8, []byte, int64) (int, error) { return 0, nil }
func (nothing) fdatasync(uint8) error                    { return nil }

// TestWorkersInterrupted: an interrupted call is made again.
func TestWorkersInterrupted(t *testing.T) {
	for _, kind := range []coordinator.Kind{coordinator.Read, coordinator.Write,
		coordinator.Flush} {
		times := 0
		d := &fakeDisks{fail: func(string) error {
			if times++; times < 3 {
				return unix.EINTR
			}
			return nil
		}}
		w := &workers{disks: d}
		if res := w.do(&coordinator.IO{Kind: kind, Data: make([]byte, 4096)}); res < 0 ||
			len(d.calls) != 3 {
			t.Errorf("answered %d after %q", res, d.calls)
		}
	}
}

// TestWorkersAnswer: each operation is answered under its own ID.
func TestWorkersAnswer(t *testing.T) {
	d := &fakeDisks{fail: func(call string) error {
		if call == "flush 3" {
			return unix.EIO
		}
		return nil
	}}
	woken := make(chan struct{}, 16)
	w := startWorkers(d, func() { woken <- struct{}{} })
	for id := range uint64(8) {
		w.submit(coordinator.IO{ID: id, Kind: coordinator.Flush, Device: uint8(id)})
	}
	w.stop()
	got := map[uint64]int32{}
	for _, r := range w.take() {
		got[r.id] = r.res
	}
	if len(got) != 8 || got[3] != -int32(unix.EIO) || got[4] != 0 || len(woken) != 8 {
		t.Errorf("answered %v, woken %d times", got, len(woken))
	}
	if again := w.take(); len(again) != 0 {
		t.Errorf("answered twice: %v", again)
	}
}

// TestWorkersStopWaits: stop returns when all operations have ended, also those that had not begun.
func TestWorkersStopWaits(t *testing.T) {
	d := &fakeDisks{hold: map[string]chan struct{}{}, begun: make(chan string, 2*workerCount)}
	for i := range 2 * workerCount {
		d.hold[fmt.Sprintf("write 0 @%d+4096", i*4096)] = make(chan struct{})
	}
	w := startWorkers(d, func() {})
	for i := range 2 * workerCount {
		w.submit(coordinator.IO{Kind: coordinator.Write, Offset: int64(i) * 4096,
			Data: make([]byte, 4096)})
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
		t.Errorf("%d of %d operations ended", len(got), 2*workerCount)
	}
}
