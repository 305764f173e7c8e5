package ublk_test

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// crossings is a Target whose queues' entries into the kernel are counted.
type crossings struct {
	ublk.Target
	enters atomic.Uint64
}

type crossingsHandler struct {
	ublk.Handler
	q     *ublk.Queue
	count *crossings
}

func (c *crossings) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	h, err := c.Target.NewQueue(q)
	return &crossingsHandler{h, q, c}, err
}

func (h *crossingsHandler) EndBatch() time.Duration {
	h.count.enters.Store(ublk.Enters(h.q))
	return h.Handler.EndBatch()
}

// One request at a time costs one entry into the kernel, which commits it and waits for the
// next, and one more if it takes an operation that the disk must first carry out. A third
// is left for the signals of the runtime and the visits to its scheduler.
func TestEntriesIntoTheKernel(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 1<<20)
		for _, c := range []struct {
			name   string
			target ublk.Target
			most   uint64 // for each request
		}{
			{"no operation", ublktest.Null{}, 1},
			{"one operation", r, 2},
		} {
			t.Run(c.name, func(t *testing.T) {
				target := &crossings{Target: c.target}
				s := serve(t, target, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero,
					BatchIO: m.batch, Params: r.Params()}, m.options())
				f := openDirect(t, s.Info().BlockPath())
				defer f.Close()
				fd, buf := int(f.Fd()), aligned(t, 4096)
				const n = 2000
				before := target.enters.Load()
				for range n {
					if _, err := unix.Pread(fd, buf, 0); err != nil {
						t.Fatal(err)
					}
				}
				got := target.enters.Load() - before
				most := c.most
				if m.poll > 0 {
					most *= 2 // one to hand over, one for what has come meanwhile
					if m.batch == ublk.Require {
						most *= 2 // the poll can find the end of a command before the next request
					}
				}
				t.Logf("%d entries for %d requests", got, n)
				if got < n || got > most*n*4/3 {
					t.Errorf("%d entries for %d requests", got, n)
				}
			})
		}
	})
}
