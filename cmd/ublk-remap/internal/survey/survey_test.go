package survey

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/metadata"
)

const unit = metadata.UnitSize

// fake is a disk with sectors of 512 bytes that fail, each after a delay.
type fake struct {
	mu                sync.Mutex
	b                 []byte
	badRead, badWrite map[int64]bool // sectors
	healed            bool           // a write makes a sector read again
	takes             time.Duration  // the time that a failure takes
	errno             syscall.Errno
	now               time.Time
	reads, writes     int
	failed            int
	pathUntil         int // the first so many operations fail with ENOLINK
}

func newFake(size int) *fake {
	f := &fake{b: make([]byte, size), badRead: map[int64]bool{}, badWrite: map[int64]bool{},
		errno: syscall.EIO, now: time.Unix(0, 0)}
	pattern := make([]byte, 1<<17) // then it repeats itself
	for i := range pattern {
		pattern[i] = byte(i>>9) ^ byte(i)
	}
	for at := 0; at < size; at += len(pattern) {
		copy(f.b[at:], pattern)
	}
	return f
}

func (f *fake) spoil(off, n int64) {
	for s := off / 512; s < (off+n)/512; s++ {
		f.badRead[s], f.badWrite[s] = true, true
	}
}

func (f *fake) fails(bad map[int64]bool, p []byte, off int64) error {
	if f.pathUntil > 0 {
		f.pathUntil--
		return syscall.ENOLINK
	}
	for s := off / 512; s < (off+int64(len(p)))/512; s++ {
		if bad[s] {
			f.now = f.now.Add(f.takes)
			f.failed++
			return f.errno
		}
	}
	return nil
}

func (f *fake) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if err := f.fails(f.badRead, p, off); err != nil {
		return 0, err
	}
	return copy(p, f.b[off:]), nil
}

func (f *fake) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if err := f.fails(f.badWrite, p, off); err != nil {
		return 0, err
	}
	for s := off / 512; f.healed && s < (off+int64(len(p)))/512; s++ {
		delete(f.badRead, s)
	}
	return copy(f.b[off:], p), nil
}

func (f *fake) Sync() error { return nil }
func (f *fake) Size() int64 { return int64(len(f.b)) }

func (f *fake) survey(known []badblocks.Range, readOnly bool) *Disk {
	return New(f, known, Options{
		ReadOnly: readOnly, Now: func() time.Time { return f.pass(0) },
		Pause: func(d time.Duration) { f.pass(d) },
	})
}

// pass lets time pass.
func (f *fake) pass(d time.Duration) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	return f.now
}

func all(f *fake) badblocks.Range { return badblocks.Range{End: f.Size()} }

// TestFindsWhatIsBad: the survey finds all bad places in a range and nothing else. Data that can be
// read stays the same.
func TestFindsWhatIsBad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 24 {
		f := newFake(9<<20 + 3*512)
		before := bytes.Clone(f.b)
		want := map[int64]bool{}
		for range rng.IntN(20) {
			s := rng.Int64N(f.Size() / 512)
			switch rng.IntN(3) {
			case 0:
				f.badRead[s] = true
			case 1:
				f.badWrite[s] = true
			default:
				f.badRead[s], f.badWrite[s] = true, true
			}
			want[s*512/unit] = true
		}
		readOnly := round%3 == 0
		if readOnly {
			clear(want)
			for s := range f.badRead {
				want[s*512/unit] = true
			}
		}
		d := f.survey(nil, readOnly)
		if err := d.Test(context.Background(), all(f)); err != nil {
			t.Fatal(err)
		}
		got := map[int64]bool{}
		for _, r := range d.Bad() {
			for off := r.Start; off < r.End; off += unit {
				got[off/unit] = true
			}
		}
		if len(got) != len(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		for u := range want {
			if !got[u] {
				t.Fatalf("unit %d was not found", u)
			}
		}
		for off := int64(0); off < f.Size(); off += unit {
			end := min(off+unit, f.Size())
			if !want[off/unit] && !bytes.Equal(f.b[off:end], before[off:end]) {
				t.Fatalf("unit %d was changed", off/unit)
			}
		}
		if readOnly && f.writes > 0 {
			t.Fatal("it wrote")
		}
		// A place that was tried is not tried again.
		n := f.reads
		if err := d.Test(context.Background(), badblocks.Range{Start: 1 << 20,
			End: 2 << 20}); err != nil || f.reads != n {
			t.Fatal(err, f.reads, n)
		}
	}
}

// TestBadPlacesCostFewTries: a slow drive gets two tries of a bad unit, one for the part that the
// unit is in and one for the unit itself. Known bad places are never tried.
func TestBadPlacesCostFewTries(t *testing.T) {
	f := newFake(8 << 20)
	f.takes = 7 * time.Second
	f.spoil(1<<20+512, 512)
	f.spoil(5<<20, 512)
	f.spoil(6<<20, unit)
	d := f.survey([]badblocks.Range{{Start: 6<<20 + 512, End: 6<<20 + 1024}}, false)
	if err := d.Test(context.Background(), all(f)); err != nil {
		t.Fatal(err)
	}
	want := []badblocks.Range{{Start: 1 << 20, End: 1<<20 + unit},
		{Start: 5 << 20, End: 5<<20 + unit}}
	if !slices.Equal(d.Bad(), want) || f.failed != 4 || d.Failed() != 28*time.Second {
		t.Errorf("%v, %d tries failed, %s", d.Bad(), f.failed, d.Failed())
	}
}

// TestTimeIsBounded: on a disk with many slow bad places, untried places count as bad after a
// while, and later the survey is given up.
func TestTimeIsBounded(t *testing.T) {
	f := newFake(16 << 20)
	f.takes = 7 * time.Second
	f.spoil(4<<20, 8<<20)
	d := f.survey(nil, false)
	if err := d.Test(context.Background(), all(f)); err != nil {
		t.Fatal(err)
	}
	if want := []badblocks.Range{{Start: 4 << 20, End: 12 << 20}}; !slices.Equal(d.Bad(), want) ||
		d.Failed() > 90*time.Second {
		t.Errorf("%v, %s", d.Bad(), d.Failed())
	}
	f = newFake(400 << 20)
	f.takes = 7 * time.Second
	f.spoil(0, 400<<20)
	d = f.survey(nil, false)
	if err := d.Test(context.Background(), all(f)); !errors.Is(err, ErrSlow) ||
		d.Failed() > giveUpAfter+f.takes {
		t.Errorf("%v, %s", err, d.Failed())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := newFake(8<<20).survey(nil, false).Test(ctx,
		badblocks.Range{End: 8 << 20}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestWritesHeal: a place that cannot be read and takes a write is good again, if the drive reports
// the failed read quickly.
func TestWritesHeal(t *testing.T) {
	for _, takes := range []time.Duration{0, 7 * time.Second} {
		f := newFake(4 << 20)
		f.healed, f.takes = true, takes
		f.badRead[77] = true
		d := f.survey(nil, false)
		if err := d.Test(context.Background(), all(f)); err != nil {
			t.Fatal(err)
		}
		if got := len(d.Bad()) == 0; got != (takes == 0) {
			t.Errorf("after %s: %v", takes, d.Bad())
		}
	}
}

// TestPathIsNoMedium: an operation that fails for another reason than the medium is tried again. If
// it still fails, nothing is known about the place.
func TestPathIsNoMedium(t *testing.T) {
	f := newFake(4 << 20)
	f.pathUntil = pathTries - 1
	d := f.survey(nil, false)
	if err := d.Test(context.Background(), all(f)); err != nil || len(d.Bad()) > 0 {
		t.Error(err, d.Bad())
	}
	f.pathUntil = 1 << 20
	for _, f := range []func() error{
		func() error { return f.survey(nil, false).Test(context.Background(), all(f)) },
		func() error {
			_, err := f.survey(nil, false).Sample(context.Background(), all(f),
				8)
			return err
		},
	} {
		if err := f(); !errors.Is(err, metadata.ErrPath) {
			t.Error(err)
		}
	}
}

func TestSample(t *testing.T) {
	f := newFake(16 << 20)
	r := badblocks.Range{Start: 4 << 20, End: 12 << 20}
	f.spoil(4<<20, unit)
	f.spoil(12<<20-unit, unit)
	before := bytes.Clone(f.b)
	d := f.survey(nil, false)
	s, err := d.Sample(context.Background(), r, 64)
	if err != nil || s != (Sampled{Tried: 64, Bad: 2}) || !bytes.Equal(f.b, before) {
		t.Errorf("%+v, %v", s, err)
	}
	if want := []badblocks.Range{{Start: 4 << 20, End: 4<<20 + unit},
		{Start: 12<<20 - unit, End: 12 << 20}}; !slices.Equal(d.Bad(), want) {
		t.Errorf("%v", d.Bad())
	}
	// All units of a small region, except those that are known to be bad.
	s, err = f.survey([]badblocks.Range{{Start: 4 << 20, End: 4<<20 + 1}},
		false).Sample(context.Background(), badblocks.Range{Start: 4 << 20, End: 4<<20 + 8*unit},
		64)
	if err != nil || s != (Sampled{Tried: 7, Known: 1}) {
		t.Errorf("%+v, %v", s, err)
	}
	// No unit takes a write, or none can be read back. The sample ends early, or costs only reads.
	for s := int64(4 << 20 / 512); s < 12<<20/512; s++ {
		f.badWrite[s] = true
	}
	f.takes = 7 * time.Second
	d = f.survey(nil, false)
	if s, err = d.Sample(context.Background(), r, 256); err != nil || s.Tried != s.Bad ||
		d.Failed() > 90*time.Second {
		t.Errorf("%+v, %v, %s", s, err, d.Failed())
	}
}

// TestSampleFindsTheGoodOnes: seven of eight units are bad, at any regular distance, or all but the
// last. The sample finds the good ones.
func TestSampleFindsTheGoodOnes(t *testing.T) {
	for _, every := range []int64{2, 3, 8, 16} {
		f := newFake(16 << 20)
		for u := range int64(2 << 20 / unit) {
			if u%every != every-1 {
				f.spoil(4<<20+u*unit, unit)
			}
		}
		s, err := f.survey(nil, false).Sample(context.Background(), badblocks.Range{Start: 4 << 20,
			End: 6 << 20}, 256)
		if err != nil || s.Tried != 256 || s.Tried-s.Bad < 256/int(every)/2 {
			t.Errorf("one of %d: %+v, %v", every, s, err)
		}
	}
}

func TestSpread(t *testing.T) {
	for units := range int64(300) {
		for _, n := range []int64{1, 2, 3, 7, 64, 256} {
			list := spread(units, n)
			sorted := slices.Sorted(slices.Values(list))
			if want := min(units, n); n > 2 && int64(len(list)) != want {
				t.Fatalf("%d of %d: %v", n, units, list)
			}
			if units > 0 && (sorted[0] != 0 || sorted[len(sorted)-1] != units-1 ||
				len(slices.Compact(sorted)) != len(list)) {
				t.Fatalf("%d of %d: %v", n, units, list)
			}
		}
	}
}

func TestZero(t *testing.T) {
	f := newFake(4 << 20)
	f.spoil(2*unit, 512)
	f.badRead[4*unit/512+3] = true
	d := f.survey(nil, false)
	good, err := d.Zero(context.Background(), []int64{unit, 2 * unit, 3 * unit, 4 * unit})
	if err != nil || !slices.Equal(good, []int64{unit, 3 * unit}) {
		t.Errorf("%v, %v", good, err)
	}
	if !bytes.Equal(f.b[3*unit:4*unit], make([]byte, unit)) ||
		bytes.Equal(f.b[:unit], make([]byte, unit)) {
		t.Error("not these units were zeroed")
	}
	if want := []badblocks.Range{{Start: 2 * unit, End: 3 * unit},
		{Start: 4 * unit, End: 5 * unit}}; !slices.Equal(d.Bad(), want) {
		t.Errorf("%v", d.Bad())
	}
}
