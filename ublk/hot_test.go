package ublk_test

import (
	"bytes"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// fanTarget carries out each request as one operation per sector: more at once than the
// ring has room for.
type fanTarget struct{ ram *ublktest.RAM }

type fanHandler struct {
	q    *ublk.Queue
	left []int
	res  []int32
	size []int32
}

func (f fanTarget) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	if err := q.SetFile(3, f.ram.File()); err != nil {
		return nil, err
	}
	n := q.Depth()
	return &fanHandler{q: q, left: make([]int, n), res: make([]int32, n), size: make([]int32, n)},
		nil
}

func (h *fanHandler) Request(r ublk.Request) {
	n := int(r.Sectors)
	h.left[r.Tag], h.res[r.Tag], h.size[r.Tag] = n, 0, int32(r.Length())
	if r.Op != ublk.OpRead && r.Op != ublk.OpWrite {
		h.q.Done(r.Tag, 0)
		return
	}
	for i := range n {
		off := uint32(i) * ublk.SectorSize
		b, at := h.q.RequestBuffer(r.Tag).At(off), r.Offset()+int64(off)
		if r.Op == ublk.OpRead {
			h.q.Read(3, b, ublk.SectorSize, at, uint64(r.Tag))
		} else {
			h.q.Write(3, b, ublk.SectorSize, at, 0, uint64(r.Tag))
		}
	}
}

func (h *fanHandler) Complete(ud uint64, res int32) {
	if res != ublk.SectorSize {
		h.res[ud] = -int32(syscall.EREMOTEIO)
	}
	if h.left[ud]--; h.left[ud] == 0 {
		if h.res[ud] == 0 {
			h.res[ud] = h.size[ud]
		}
		h.q.Done(uint16(ud), h.res[ud])
	}
}
func (h *fanHandler) Wake()                   {}
func (h *fanHandler) EndBatch() time.Duration { return 0 }
func (h *fanHandler) Close()                  {}

// A request split into pieces of 512 bytes, a thousand of them, in a ring of 128 entries.
func TestMoreOperationsThanTheRingHolds(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 8<<20)
		p := r.Params()
		p.Discard = nil
		s := serve(t, fanTarget{r}, ublk.Config{ID: ublk.AnyID, Depth: 4, MaxIO: 512 << 10,
			ZeroCopy: m.zero, BatchIO: m.batch, Params: p}, m.options())
		f := openDirect(t, s.Info().BlockPath())
		defer f.Close()
		e := newExerciser(t, f, r.Size(), 4, 512, 512<<10)
		e.start(20)
		if err := e.wait(); err != nil {
			t.Fatal(err)
		}
		if err := e.verify(); err != nil {
			t.Fatal(err)
		}
	})
}

// ioLoop reads and writes one block, again and again, without allocating.
func ioLoop(tb testing.TB, fd int, buf []byte, n int) {
	tb.Helper()
	for i := range n {
		var err error
		if i%2 == 0 {
			_, err = unix.Pwrite(fd, buf, 4096)
		} else {
			_, err = unix.Pread(fd, buf, 4096)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// The queue's loop allocates nothing: the whole process, with client and server in it,
// makes next to no allocations over thousands of requests.
func TestServingDoesNotAllocate(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 1<<20)
		s := serve(t, r, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Params: r.Params()}, m.options())
		f := openDirect(t, s.Info().BlockPath())
		defer f.Close()
		fd, buf := int(f.Fd()), aligned(t, 4096)
		ioLoop(t, fd, buf, 100)
		const n = 4000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ioLoop(t, fd, buf, n)
		runtime.ReadMemStats(&after)
		if got := after.Mallocs - before.Mallocs; got > n/50 {
			t.Errorf("%d allocations for %d requests", got, n)
		}
	})
}

// Collections stop the world while queue threads wait in the kernel.
func TestCollectionsUnderLoad(t *testing.T) {
	r := ram(t, 8<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Queues: 2, Params: r.Params()}, ublk.RunOptions{})
	f := openDirect(t, s.Info().BlockPath())
	defer f.Close()
	e := newExerciser(t, f, r.Size(), 4, 512, 64<<10)
	var stop atomic.Bool
	collected := make(chan int)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			_ = bytes.Repeat([]byte{1}, 1<<20)
			runtime.GC()
		}
		collected <- n
	}()
	e.start(200)
	err := e.wait()
	stop.Store(true)
	if n := <-collected; n == 0 {
		t.Error("nothing was collected")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := e.verify(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkServe is a read or write of 4 KiB at depth one through a device; allocations are
// those of client and server.
func BenchmarkServe(b *testing.B) {
	for _, target := range []struct {
		name string
		make func(testing.TB) ublk.Target
	}{
		{"null", func(testing.TB) ublk.Target { return ublktest.Null{} }},
		{"ram", func(tb testing.TB) ublk.Target { return ram(tb, 1<<20) }},
	} {
		for _, m := range modes {
			b.Run(target.name+"/"+m.name, func(b *testing.B) {
				m.need(b)
				s := serve(b, target.make(b), ublk.Config{
					ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
					Params: ublk.Params{Size: 1 << 20},
				}, m.options())
				f := openDirect(b, s.Info().BlockPath())
				defer f.Close()
				fd, buf := int(f.Fd()), aligned(b, 4096)
				ioLoop(b, fd, buf, 100)
				b.ReportAllocs()
				b.SetBytes(4096)
				b.ResetTimer()
				ioLoop(b, fd, buf, b.N)
				b.StopTimer()
			})
		}
	}
}
