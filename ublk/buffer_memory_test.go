package ublk_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"ublkremap/test/vmtest"
	"ublkremap/ublk"
)

// kernelLimit is how large the kernel makes requests, in bytes.
func kernelLimit(t *testing.T, id int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/queue/max_sectors_kb", id))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	if _, err := fmt.Sscan(string(text), &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestBufferMemory: buffers that grow and release memory under load never lose a byte of it.
func TestBufferMemory(t *testing.T) {
	for _, m := range modes {
		if m.zero == ublk.Require {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			m.need(t)
			const depth, most, stay = 8, 256 << 10, 16 << 10
			r := ram(t, 16<<20)
			var outgrown atomic.Int64
			opts := m.options()
			opts.Stay, opts.Outgrown = stay, func() { outgrown.Add(1) }
			s := serve(t, r, ublk.Config{ID: ublk.AnyID, Depth: depth, MaxIO: most,
				ZeroCopy: m.zero, BatchIO: m.batch, Params: r.Params()}, opts)
			f := openDirect(t, s.Info().BlockPath())
			e := newExerciser(t, f, r.Size(), 8, 512, most)
			e.start(0)
			deadline := time.Now().Add(3 * time.Second)
			if vmtest.Full() {
				deadline = deadline.Add(20 * time.Second)
			}
			for turn := 0; turn < 20 || time.Now().Before(deadline); turn++ {
				// With nothing granted, each large request brings its memory and leaves it.
				want := []int{0, 64 << 10, 0, most}[turn%4]
				if err := s.Grant(want); err != nil {
					t.Fatal(err)
				}
				if got := s.Granted(); m.batch == ublk.Never && got != max(want, stay) ||
					m.batch == ublk.Require && got != most {
					t.Fatalf("%d bytes of each buffer stay, asked for %d", got, want)
				}
				if limit := kernelLimit(t, s.Info().ID); m.batch == ublk.Never &&
					limit != max(want, stay) {
					t.Fatalf("the kernel's requests have up to %d bytes, asked for %d", limit, want)
				}
				time.Sleep(20 * time.Millisecond)
			}
			e.finish(t)
			if m.batch == ublk.Never && (outgrown.Load() == 0 || s.LargeRequests() == 0) {
				t.Errorf("outgrown %d times by %d requests", outgrown.Load(), s.LargeRequests())
			}
			if err := s.Grant(0); err != nil {
				t.Fatal(err)
			}
			f.Close()
		})
	}
}
