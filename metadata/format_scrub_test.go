package metadata

import (
	"bytes"
	"math"
	"testing"
)

var testScrub = Scrub{State: ScrubPaused, Idle: true, RelocateSlow: true, NoRetest: true,
	Position: 1<<40 + 3, Started: 1_700_000_001, Finished: 1_600_000_002, Rate: 51200,
	Interval: 604800, Unreadable: 5, Weak: 6, Slow: 7, Repaired: 8, Relocated: math.MaxUint32}

func TestScrubForm(t *testing.T) {
	b := make([]byte, PageSize)
	putScrub(b, &Scrub{})
	if !bytes.Equal(b, make([]byte, PageSize)) {
		t.Error("a scrub that nobody asked for is not zero on disk")
	}
	if s, ok := getScrub(b); ok || s != (Scrub{}) {
		t.Errorf("a page without a scrub: %+v, %v", s, ok)
	}
	s := testScrub
	putScrub(b, &s)
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i != PageSize-48 {
		t.Errorf("it begins at byte %d", i)
	}
	if got, ok := getScrub(b); !ok || got != s {
		t.Errorf("written %+v, read %+v", s, got)
	}
	b[scrubFormAt]++ // as a later version may write it
	if got, ok := getScrub(b); ok || got != (Scrub{}) {
		t.Errorf("an unknown form: %+v", got)
	}
}

// TestScrubIsKept: a load finds what a record or a checkpoint said last, and a record that is full
// says nothing and hides nothing.
func TestScrubIsKept(t *testing.T) {
	w := single(t, smallParams(512, 0))
	commit := func(n int) {
		t.Helper()
		w.must(w.c.Commit(pendings(n)))
		w.settle()
	}
	want := func(s Scrub) {
		t.Helper()
		img, err := Load(devices(w.disks))
		if err != nil {
			t.Fatal(err)
		}
		if got := img.Scrub(); got != s {
			t.Errorf("found %+v, want %+v", got, s)
		}
	}
	want(Scrub{})
	s := testScrub
	w.c.SetScrub(s)
	want(Scrub{})
	commit(0)
	want(s)
	for _, n := range []int{1, maxEntriesAndScrub, maxEntriesAndScrub + 1, MaxEntries} {
		was := s
		s.Position++
		w.c.SetScrub(s)
		commit(n)
		if n > maxEntriesAndScrub {
			want(was)
			commit(0)
		}
		want(s)
	}
	s.Position++
	w.c.SetScrub(s)
	w.must(w.c.Checkpoint())
	w.settle()
	want(s)
	// The next server goes on with it, also before anybody asks it for something.
	w.power()
	w.settle()
	want(s)
	commit(1)
	want(s)
}

// pendings are entries that nothing else is about.
func pendings(n int) []Entry {
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = Entry{Unit: uint64(2 * i), Count: 1, Mask: 1, State: StatePending,
			Cause: CauseScrub}
	}
	return entries
}
