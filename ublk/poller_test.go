package ublk

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The window stays within its bounds, is gone after some long waits, and covers waits of
// one length that it may cover.
func TestPollerFollowsTheWaits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := poller{most: time.Duration(rapid.Int64Range(1, int64(time.Millisecond)).Draw(t,
			"most"))}
		for _, ns := range rapid.SliceOfN(rapid.Int64Range(0, int64(10*time.Millisecond)), 0,
			50).Draw(t, "waits") {
			p.waited(time.Duration(ns))
			if p.window < 0 || p.window > p.most {
				t.Fatalf("window %s of at most %s", p.window, p.most)
			}
		}
		for range 20 {
			p.waited(time.Second)
		}
		if p.window != 0 {
			t.Fatalf("window %s on an idle device", p.window)
		}
		steady := time.Duration(rapid.Int64Range(0, int64(p.most)).Draw(t, "steady"))
		for range 20 {
			p.waited(steady)
		}
		if p.window < steady {
			t.Fatalf("window %s with waits of %s", p.window, steady)
		}
	})
}
