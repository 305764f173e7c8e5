package ublk

import (
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uring"
)

// mapped reports whether memory is still the process's.
func mapped(b []byte) bool { return unix.Madvise(b, unix.MADV_NORMAL) == nil }

// TestReleaseWithOperationsUnderWay: memory that the kernel may still write to is not given
// back: what is mapped there next would be written over.
func TestReleaseWithOperationsUnderWay(t *testing.T) {
	for _, c := range []struct {
		name     string
		inflight int
		armed    bool
		kept     bool
	}{
		{"all has ended", 0, false, false},
		{"an operation is under way", 1, false, true},
		{"the eventfd is being read", 0, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(&Device{info: DeviceInfo{Depth: 2, MaxIO: 8192}}, 0, -1)
			var err error
			if q.bufs, err = uring.Mmap(q.depth * q.maxIO); err != nil {
				t.Fatal(err)
			}
			if q.wakeWord, err = uring.Mmap(pageSize); err != nil {
				t.Fatal(err)
			}
			m, err := q.NewMemory(pageSize)
			if err != nil {
				t.Fatal(err)
			}
			q.inflight, q.wakeArmed = c.inflight, c.armed
			if err := q.release(); err != nil {
				t.Fatal(err)
			}
			for name, b := range map[string][]byte{"the requests' buffers": q.bufs,
				"the word of the eventfd": q.wakeWord, "the handler's memory": m.bytes} {
				if mapped(b) != c.kept {
					t.Errorf("%s: mapped %v, want %v", name, mapped(b), c.kept)
				}
			}
			if c.kept {
				if err := uring.Munmap(q.bufs, q.wakeWord, m.bytes); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
