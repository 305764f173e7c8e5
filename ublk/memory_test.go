package ublk

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNewMemoryIsThere: a write by the kernel needs no new page, even if the memory was only read
// before. All pages of zeroes that are only read are the same page.
func TestNewMemoryIsThere(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const pages = 256
	q := newQueue(&Device{info: DeviceInfo{Depth: 1, MaxIO: pageSize}}, 0, -1)
	defer q.release()
	faults := func(b []byte) int64 {
		var before, after unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(b); i += pageSize {
			b[i] = 1
		}
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
			t.Fatal(err)
		}
		return after.Minflt - before.Minflt
	}
	m, err := q.NewMemory(pages * pageSize)
	if err != nil {
		t.Fatal(err)
	}
	zeroes, err := q.NewZeroes(pages * pageSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{m.bytes, zeroes.bytes} {
		if err := unix.Madvise(b, unix.MADV_POPULATE_READ); err != nil {
			t.Skip("Linux 5.14:", err)
		}
	}
	if n := faults(m.bytes); n > pages/8 {
		t.Errorf("%d faults in memory that is written", n)
	}
	if n := faults(zeroes.bytes); n < pages/2 {
		t.Errorf("only %d faults in %d pages of zeroes: this test cannot fail", n, pages)
	}
}
