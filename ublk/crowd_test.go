package ublk_test

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// crowdTarget answers a write with more completions than the ring has room for, and waits until it
// is told that the next request is on its way.
type crowdTarget struct {
	ublktest.Null
	file    *os.File
	crowded chan struct{} // says that the ring is full
	goOn    chan struct{} // is told that there is another request
	rearmed atomic.Int64
}

// crowd is how many operations: the ring of a queue of depth 2 has room for 256 completions.
const crowd = 1000

type crowdHandler struct {
	ublk.Handler
	t    *crowdTarget
	q    *ublk.Queue
	mem  *ublk.Memory
	left int
	tag  uint16
	size int32
}

func (c *crowdTarget) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	if err := q.SetFile(0, c.file); err != nil {
		return nil, err
	}
	mem, err := q.NewMemory(4096)
	if err != nil {
		return nil, err
	}
	h, err := c.Null.NewQueue(q)
	return &crowdHandler{Handler: h, t: c, q: q, mem: mem}, err
}

func (h *crowdHandler) Request(r ublk.Request) {
	if r.Op != ublk.OpWrite {
		h.Handler.Request(r)
		return
	}
	h.tag, h.size, h.left = r.Tag, int32(r.Length()), crowd
	for i := range crowd {
		h.q.Read(0, h.mem.Buffer(0), 512, 0, uint64(i))
	}
	h.t.crowded <- struct{}{}
	<-h.t.goOn
}

func (h *crowdHandler) Complete(_ uint64, res int32) {
	if res != 512 {
		h.size = -5
	}
	if h.left--; h.left == 0 {
		h.q.Done(h.tag, h.size)
	}
}

func (h *crowdHandler) Close() { h.t.rearmed.Store(int64(h.q.Rearmings())) }

// A request that comes while completions overflow is not lost: with batch I/O the kernel
// takes it back, and gives it again.
func TestRequestWhileTheRingIsFull(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		// Reads of it are carried out at once, and so all complete before anybody looks.
		file, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		target := &crowdTarget{file: file, crowded: make(chan struct{}), goOn: make(chan struct{})}
		s := serve(t, target, ublk.Config{ID: ublk.AnyID, Depth: 2, ZeroCopy: m.zero,
			BatchIO: m.batch, Params: ublk.Params{Size: 1 << 20}}, m.options())
		f := openDirect(t, s.Info().BlockPath())
		buf, other := aligned(t, 4096), aligned(t, 4096)
		results := make(chan error, 2)
		// More than once: the kernel counts a request a moment before it hands it out.
		for range 10 {
			go func() {
				_, err := f.WriteAt(buf, 0)
				results <- err
			}()
			select {
			case <-target.crowded:
			case <-time.After(limit):
				t.Fatal("the write has not come")
			}
			go func() {
				_, err := f.ReadAt(other, 8192)
				results <- err
			}()
			for !saturated(s.Info().ID, 2) {
				time.Sleep(time.Millisecond)
			}
			target.goOn <- struct{}{}
			for range 2 {
				select {
				case err := <-results:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(limit):
					t.Fatal("a request was lost")
				}
			}
		}
		f.Close()
		s.remove(t)
		if n := target.rearmed.Load(); (n > 0) != (m.batch == ublk.Require) {
			t.Errorf("requests were asked for again %d times", n)
		}
	})
}
