package ublk_test

import (
	"testing"

	"ublkremap/ublk"
)

// Making memory present must not disturb what is in it.
func TestPrefault(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 8<<20)
		s := serve(t, r, ublk.Config{ID: ublk.AnyID, Queues: 2, Depth: 16, MaxIO: 64 << 10,
			ZeroCopy: m.zero, BatchIO: m.batch, Params: r.Params()}, m.options())
		f := openDirect(t, s.Info().BlockPath())
		e := newExerciser(t, f, r.Size(), 4, 512, 64<<10)
		e.start(0)
		want := int64(s.Info().Queues) * 16 * 64 << 10
		if m.zero == ublk.Require {
			want = 0
		}
		part, all, err := s.Prefault(want / 4)
		if err != nil || all < want || part < want/4 || m.zero == ublk.Never &&
			part > want/4+all-want {
			t.Errorf("a quarter: %d of %d bytes, %v; there are %d for requests", part, all, err,
				want)
		}
		for range 50 {
			present, all, err := s.Prefault(1 << 40)
			if err != nil || present != all || all < want {
				t.Fatalf("%d of %d bytes, %v", present, all, err)
			}
		}
		e.finish(t)
		f.Close()
		s.remove(t)
		if present, _, err := s.Prefault(1 << 40); present != 0 || err != nil {
			t.Errorf("after the end: %d bytes, %v", present, err)
		}
	})
}
