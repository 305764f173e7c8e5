package server

import (
	"context"
	"errors"
	"slices"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/remap"
)

func TestTable(t *testing.T) {
	m := remap.NewMap(4096, 8)
	for _, e := range []metadata.Entry{
		// Neighbours that are alike are one run, also across the end of a leaf.
		{Unit: 1000, Spare: 50, Count: 100, Mask: 0xff, State: metadata.StateMapped,
			Cause: metadata.CauseWrite, Time: 60},
		// The same state with another time is another run.
		{Unit: 1100, Spare: 150, Count: 1, Mask: 0xff, State: metadata.StateMapped,
			Cause: metadata.CauseWrite, Time: 61},
		// A mask with a hole.
		{Unit: 2000, Spare: 7, Count: 1, Mask: 0b01000110, State: metadata.StateMapped,
			Cause: metadata.CauseSpare, Time: 62},
		// A block in the spare region that cannot be read.
		{Unit: 2000, Count: 1, Mask: 0b01000000, State: metadata.StatePending,
			Cause: metadata.CauseRead, Time: 63},
		{Unit: 3000, Count: 2, Mask: 0xff, State: metadata.StateLost, Cause: metadata.CauseUnknown,
			Time: 64},
		{Unit: 3002, Count: 1, Mask: 0x01, State: metadata.StatePending, Cause: metadata.CauseRead,
			Time: 64},
	} {
		m.Apply(e)
	}
	m.SetBusy(3500, 4, true)
	at := func(n uint64) *uint64 { return &n }
	want := []control.Remap{
		{Block: 8000, Count: 800, Spare: at(400), State: "mapped", Cause: "write",
			Time: "1970-01-01T00:01:00Z"},
		{Block: 8800, Count: 8, Spare: at(1200), State: "mapped", Cause: "write",
			Time: "1970-01-01T00:01:01Z"},
		{Block: 16001, Count: 2, Spare: at(57), State: "mapped", Cause: "read",
			Time: "1970-01-01T00:01:03Z"},
		{Block: 16006, Count: 1, Spare: at(62), State: "pending", Cause: "read",
			Time: "1970-01-01T00:01:03Z"},
		{Block: 24000, Count: 16, State: "lost", Cause: "unknown", Time: "1970-01-01T00:01:04Z"},
		{Block: 24016, Count: 1, State: "pending", Cause: "read", Time: "1970-01-01T00:01:04Z"},
	}
	got, err := tableOf(context.Background(), m, 4096*8)
	if err != nil {
		t.Fatal(err)
	}
	same := func(a, b control.Remap) bool {
		x, y := a.Spare, b.Spare
		a.Spare, b.Spare = nil, nil
		return a == b && (x == nil) == (y == nil) && (x == nil || *x == *y)
	}
	if !slices.EqualFunc(got, want, same) {
		for _, r := range got {
			spare := "-"
			if r.Spare != nil {
				spare = "spare"
			}
			t.Logf("%+v %s", r, spare)
		}
		t.Error("the table is not as it should be")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := tableOf(ctx, m, 4096*8); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// tableOf collects a map's rows.
func tableOf(ctx context.Context, m *remap.Map, blocks uint64) (rows []control.Remap, err error) {
	err = Table(ctx, m, blocks, func(r control.Remap) error { rows = append(rows, r); return nil })
	return rows, err
}

// TestTableEndsWithItsReader: a reader that cannot take more ends the walk.
func TestTableEndsWithItsReader(t *testing.T) {
	m := remap.NewMap(4096, 8)
	for u := range uint64(100) {
		m.Apply(metadata.Entry{Unit: 2 * u, Spare: uint32(u), Count: 1, Mask: 0xff,
			State: metadata.StateMapped, Cause: metadata.CauseWrite})
	}
	full, n := errors.New("full"), 0
	err := Table(context.Background(), m, 4096*8, func(control.Remap) error {
		if n++; n == 7 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) || n != 7 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestSpareDevices(t *testing.T) {
	geo := remap.Geometry{Spares: []remap.SpareExtent{{First: 0, Count: 5},
		{First: 5, Count: 7, Device: 1}, {First: 12, Count: 1}}}
	if got := spareDevices(&geo); !slices.Equal(got, []spareDevice{{0, 6}, {1, 7}}) {
		t.Error(got)
	}
}

func TestPowerOfTwo(t *testing.T) {
	for n, want := range map[int64]uint32{0: 0, -8: 0, 1: 1, 4096: 4096, 6144: 0, 1 << 31: 1 << 31,
		1 << 32: 0} {
		if got := powerOfTwo(n); got != want {
			t.Errorf("%d: %d", n, got)
		}
	}
}
