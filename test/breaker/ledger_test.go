package breaker

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"

	"ublkremap/test/rig"
)

const sector = 512

// ledger writes a device and knows what it must hold: for every sector the
// seeds of the patterns that may be there.
type ledger struct {
	dev     *rig.Direct
	mu      sync.Mutex
	allowed [][]uint8 // by sector
	seed    uint8
	// failed counts the requests that were refused, by what and why.
	failed map[string]int
	done   int
}

// newLedger fills the first size bytes.
func newLedger(t testing.TB, path string, size int64) *ledger {
	t.Helper()
	l := &ledger{dev: rig.Open(t, path), allowed: make([][]uint8, size/sector),
		failed: map[string]int{}, seed: 1}
	l.dev.Fill(t, 0, size, 1)
	for i := range l.allowed {
		l.allowed[i] = []uint8{1}
	}
	return l
}

// zero says that an extent reads as zeroes from now on: version 0.
func (l *ledger) zero(e rig.Extent) {
	for i := e.Start / sector; i < e.End()/sector; i++ {
		l.allowed[i] = []uint8{0}
	}
}

// reopen opens the device anew, after a new start.
func (l *ledger) reopen(t testing.TB, path string) {
	t.Helper()
	l.dev.Close()
	l.dev = rig.Open(t, path)
}

func (l *ledger) size() int64 { return int64(len(l.allowed)) * sector }

// write writes n bytes at off, not at the same time as another write to the
// same place, and returns its error.
func (l *ledger) write(off, n int64) error {
	l.mu.Lock()
	l.seed = l.seed%200 + 1
	seed := l.seed
	l.mu.Unlock()
	buf := rig.Aligned(int(n))
	rig.Pattern(buf, off, uint64(seed))
	err := l.dev.Write(buf, off)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := off / sector; i < (off+n)/sector; i++ {
		if err == nil {
			l.allowed[i] = []uint8{seed}
		} else if !slices.Contains(l.allowed[i], seed) {
			l.allowed[i] = append(l.allowed[i], seed)
		}
	}
	l.count("write", err)
	return err
}

// read reads n bytes at off. Each sector must hold something that is allowed there.
func (l *ledger) read(t testing.TB, off, n int64) error {
	t.Helper()
	buf := rig.Aligned(int(n))
	err := l.dev.Read(buf, off)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count("read", err)
	if err == nil {
		l.compare(t, buf, off)
	}
	return err
}

func (l *ledger) count(what string, err error) {
	l.done++
	if err != nil {
		l.failed[fmt.Sprintf("%s: %s", what, errnoName(err))]++
	}
}

func (l *ledger) compare(t testing.TB, buf []byte, off int64) {
	t.Helper()
	want := make([]byte, sector)
	for i := int64(0); i < int64(len(buf)); i += sector {
		got := buf[i : i+sector]
		may := l.allowed[(off+i)/sector]
		if !slices.ContainsFunc(may, func(seed uint8) bool {
			if clear(want); seed != 0 {
				rig.Pattern(want, off+i, uint64(seed))
			}
			return bytes.Equal(got, want)
		}) {
			t.Errorf("wrong data at byte %d: it begins with %x, and is none of versions %v", off+i,
				got[:16], may)
			return
		}
	}
}

// verify reads everything, block by block where it must, and returns how many
// sectors do not read.
func (l *ledger) verify(t testing.TB) (unreadable int64) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	buf := rig.Aligned(rig.Step)
	for off := int64(0); off < l.size(); off += rig.Step {
		b := buf[:min(rig.Step, l.size()-off)]
		if l.dev.Read(b, off) == nil {
			l.compare(t, b, off)
			continue
		}
		for at := off; at < off+int64(len(b)); at += sector {
			if l.dev.Read(b[:sector], at) != nil {
				unreadable++
				continue
			}
			l.compare(t, b[:sector], at)
		}
	}
	return unreadable
}

// requests is how many requests have ended.
func (l *ledger) requests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// failures is how many requests were refused, and as what.
func (l *ledger) failures() (int, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	var words []string
	for k, v := range l.failed {
		n += v
		words = append(words, fmt.Sprintf("%s × %d", k, v))
	}
	slices.Sort(words)
	return n, join(words, ", ")
}
