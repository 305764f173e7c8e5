package size

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	const total = 1000204886016 // a disk of a terabyte
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "4096": 4096, "512B": 512, "1KiB": 1024, "1K": 1024, "1 MiB": 1 << 20,
		"1.5GiB": 3 << 29, "0.5KiB": 512, ".5K": 512,
		"2TiB": 2 << 40, "8191PiB": -1, "9223372036854775807": 1<<63 - 1,
		"100%": total, "1%": 10002048860, "0.5%": 5001024430, "0.1%": 1000204886,
		"33.3%": 333068227043, "0%": 0, "50 %": 500102443008,
	} {
		s, err := Parse(text)
		if want < 0 {
			if !errors.Is(err, ErrSize) {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if got := s.Of(total, 1); got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
		if got := s.Of(total, 4096); got != want/4096*4096 {
			t.Errorf("%s in units is %d", text, got)
		}
		if s.String() != text {
			t.Errorf("%s prints as %s", text, s)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "%", "x", "-1", "+1", "1e3", "1/2", "1..2", "0x10", "1kib",
		"1MB", "101%", "100.1%", "1.0001KiB", "0.1",
		"9223372036854775808", "8388608TiB", "1MiB%", "1 2", "１"} {
		if s, err := Parse(text); !errors.Is(err, ErrSize) {
			t.Errorf("%q gave %v, %v", text, s.Of(1<<40, 1), err)
		}
	}
}

func TestExact(t *testing.T) {
	s, _ := Parse("1GiB")
	if n, ok := s.Exact(); !ok || n != 1<<30 {
		t.Error(n, ok)
	}
	s, _ = Parse("1%")
	if _, ok := s.Exact(); ok {
		t.Error("a percentage is no exact size")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1%", "1.5GiB", "4096", "99999999999999999999999999999T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrSize) {
				t.Fatal(err)
			}
			return
		}
		if n := s.Of(1<<40, 1); n < 0 {
			t.Fatalf("%q is %d", text, n)
		}
	})
}
