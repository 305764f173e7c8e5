package server

import (
	"slices"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// TestSeenIn: rows of the table say how each block was seen. Rows that make no sense are refused.
func TestSeenIn(t *testing.T) {
	geo := &remap.Geometry{BlockSize: 512, Blocks: 10_000}
	place := uint64(8*5 + 7)
	const then = "1970-01-01T00:01:40Z"
	got, err := seenIn([]control.Remap{
		{Block: 95, Count: 2, State: "pending", Spare: &place, Time: then},
		{Block: 99, Count: 1, State: "lost", Time: then},
	}, geo)
	want := []remap.Seen{
		{State: metadata.StatePending, Mapped: true, Spare: 5, Time: 100},
		{State: metadata.StatePending, Mapped: true, Spare: 6, Time: 100}, {}, {},
		{State: metadata.StateLost, Time: 100},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%+v\nwant %+v", err, got, want)
	}
	row := func(block, count uint64) control.Remap {
		return control.Remap{Block: block, Count: count, State: "pending", Time: then}
	}
	for name, rows := range map[string][]control.Remap{
		"nothing":       {row(1, 0)},
		"behind":        {row(9_999, 2)},
		"far behind":    {row(10_000, 1)},
		"wraps":         {row(1, ^uint64(0))},
		"wide":          {row(0, 257)},
		"apart":         {row(0, 1), row(256, 1)},
		"twice":         {row(5, 2), row(6, 1)},
		"backwards":     {row(5, 1), row(4, 1)},
		"mapped":        {{Block: 1, Count: 1, State: "mapped", Time: then}},
		"without time":  {{Block: 1, Count: 1, State: "lost"}},
		"without state": {{Block: 1, Count: 1, Time: then}},
	} {
		if got, err := seenIn(rows, geo); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got, err := seenIn([]control.Remap{row(0, 1), row(255, 1)}, geo); err != nil ||
		len(got) != 256 {
		t.Errorf("%d, %v", len(got), err)
	}
}
