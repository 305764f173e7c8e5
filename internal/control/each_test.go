package control

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestEach: so many at once and no more, and those that hang make the others wait a moment.
func TestEach(t *testing.T) {
	const hangs = 5 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var now, most, done atomic.Int32
		began := time.Now()
		var last time.Duration
		Each(500, func(i int) {
			if i < 100 { // they hang
				time.Sleep(hangs)
				done.Add(1)
				return
			}
			for n, m := now.Add(1), most.Load(); n > m && !most.CompareAndSwap(m, n); {
				m = most.Load()
			}
			time.Sleep(time.Millisecond)
			if now.Add(-1); done.Add(1) == 400 {
				last = time.Since(began)
			}
		})
		if n := most.Load(); n > atOnce || n < atOnce/2 {
			t.Errorf("%d at once", n)
		}
		if done.Load() != 500 || last > 2*time.Second {
			t.Errorf("%d were asked, the 400th after %v", done.Load(), last)
		}
		if took := time.Since(began); took > hangs+2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
