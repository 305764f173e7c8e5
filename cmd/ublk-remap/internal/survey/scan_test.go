package survey

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/metadata"
)

// TestScanFindsWhatDoesNotRead: a scan finds exactly what does not read, and writes nothing.
func TestScanFindsWhatDoesNotRead(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 12 {
		f := newFake(9<<20 + 3*512)
		before := bytes.Clone(f.b)
		want := map[int64]bool{}
		for range rng.IntN(20) {
			s := rng.Int64N(f.Size() / 512)
			if rng.IntN(3) == 0 {
				f.badWrite[s] = true // that is not found by reading
				continue
			}
			f.badRead[s] = true
			want[s*512/unit] = true
		}
		known := badblocks.Range{Start: 3 << 20, End: 3<<20 + 512}
		f.badRead[known.Start/512] = true
		delete(want, known.Start/unit)
		done := int64(0)
		d := f.survey([]badblocks.Range{known}, false)
		d.Report(func(n int64, _ int) { done += n })
		if err := d.Scan(context.Background(), all(f), ScanOptions{InFlight: 1 + rng.IntN(4),
			Most: 100}); err != nil {
			t.Fatal(err)
		}
		got := map[int64]bool{}
		for _, r := range d.Unread() {
			for off := r.Start; off < r.End; off += unit {
				got[off/unit] = true
			}
		}
		if len(got) != len(want) || len(d.Bad()) > 0 || done != f.Size()-unit {
			t.Fatalf("found %v, want %v; %d bytes were read", got, want, done)
		}
		for u := range want {
			if !got[u] {
				t.Fatalf("unit %d was not found", u)
			}
		}
		if f.writes > 0 || !bytes.Equal(f.b, before) {
			t.Fatal("it wrote")
		}
		// What was read is not read again.
		n := f.reads
		if err := d.Scan(context.Background(), all(f), ScanOptions{}); err != nil || f.reads != n {
			t.Fatal(err, f.reads, n)
		}
	}
}

// TestScanIsBounded: a bad unit costs a slow drive two tries. A part that fails for a minute is
// given up, and what comes after it is still read. More bad units than asked for end the scan.
func TestScanIsBounded(t *testing.T) {
	f := newFake(4 << 20)
	f.takes = 7 * time.Second
	f.spoil(1<<20+512, 512)
	f.spoil(3<<20, 512)
	d := f.survey(nil, false)
	o := ScanOptions{InFlight: 1, Most: 1000}
	want := []badblocks.Range{{Start: 1 << 20, End: 1<<20 + unit},
		{Start: 3 << 20, End: 3<<20 + unit}}
	if err := d.Scan(context.Background(), all(f), o); err != nil || f.failed != 4 ||
		!slices.Equal(d.Unread(), want) {
		t.Errorf("%v, %v, %d tries failed", err, d.Unread(), f.failed)
	}
	f = newFake(4 << 20)
	f.takes = 7 * time.Second
	f.spoil(1<<20, 2<<20)
	d = f.survey(nil, false)
	want = []badblocks.Range{{Start: 1 << 20, End: 3 << 20}}
	if err := d.Scan(context.Background(), all(f), o); err != nil || f.failed > 2*(60/7+2) ||
		!slices.Equal(d.Unread(), want) {
		t.Errorf("%v, %v, %d tries failed", err, d.Unread(), f.failed)
	}
	o.Most = 100
	if err := f.survey(nil, false).Scan(context.Background(), all(f), o); !errors.Is(err,
		ErrTooMany) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.survey(nil, false).Scan(ctx, all(f), o); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestScanOfALostDisk: a disk that fails for another reason than its medium, and one that fails
// everywhere, are errors of the path. Their blocks do not count as bad.
func TestScanOfALostDisk(t *testing.T) {
	o := ScanOptions{InFlight: 2, Most: 10000}
	f := newFake(4 << 20)
	f.pathUntil = pathTries - 1
	if d := f.survey(nil, false); d.Scan(context.Background(), all(f), o) != nil ||
		len(d.Unread()) > 0 {
		t.Error(d.Unread())
	}
	f.pathUntil = 1 << 20
	d := f.survey(nil, false)
	if err := d.Scan(context.Background(), all(f), o); !errors.Is(err, metadata.ErrPath) ||
		len(d.Unread()) > 0 {
		t.Error(err, d.Unread())
	}
	// It is gone in the middle of the scan, with EIO.
	f = newFake(8 << 20)
	d = f.survey(nil, false)
	d.Report(func(int64, int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for s := range f.Size() / 512 {
			f.badRead[s] = true
		}
	})
	o.InFlight = 1
	if err := d.Scan(context.Background(), all(f), o); !errors.Is(err, metadata.ErrPath) ||
		len(d.Unread()) > 0 {
		t.Error(err, d.Unread())
	}
}
