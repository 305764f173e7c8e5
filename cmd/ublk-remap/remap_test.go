package main

import (
	"errors"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

func TestParseRanges(t *testing.T) {
	got, err := parseRanges([]string{"0", "5+3", "99"}, 100)
	want := []control.Range{{Block: 0, Count: 1}, {Block: 5, Count: 3}, {Block: 99, Count: 1}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "-1", "1+", "+1", "1+0", "100", "99+2", "0+101",
		"1+18446744073709551615", "18446744073709551616", "1 +2"} {
		if got, err := parseRanges([]string{bad}, 100); !errors.Is(err, exit.ErrUsage) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

// FuzzBlocks reads BLOCK[+COUNT] as people type it.
func FuzzBlocks(f *testing.F) {
	f.Add("1", uint64(10))
	f.Add("4096+8", uint64(1<<40))
	f.Add("18446744073709551615+18446744073709551615", uint64(1<<63))
	f.Add("1+-1", uint64(5))
	f.Add("0x10+1", uint64(100))
	f.Add("+", uint64(1))
	f.Add("9+", uint64(0))
	f.Fuzz(func(t *testing.T, text string, blocks uint64) {
		ranges, err := parseRanges(strings.Fields(text), blocks)
		if err != nil {
			if !errors.Is(err, exit.ErrUsage) || ranges != nil {
				t.Fatal(ranges, err)
			}
			return
		}
		for _, r := range ranges {
			if r.Count == 0 || r.Block+r.Count <= r.Block || r.Block+r.Count > blocks {
				t.Fatalf("%+v of %d blocks", r, blocks)
			}
		}
	})
}
