package lists

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// read reads a list of a disk of size bytes.
func read(text, format string, block int, size int64) (*List, error) {
	return Read(strings.NewReader(text), "list", Options{Format: format, Block: block, Size: size})
}

// TestBadblocks reads lists of numbers.
func TestBadblocks(t *testing.T) {
	for text, want := range map[string][]Range{
		"":                        nil,
		"\n# none\n\n":            nil,
		"5":                       {{5120, 6144}},
		"5\n6\n7\n":               {{5120, 8192}},
		"9\n5\n6\n9\n5\n":         {{5120, 7168}, {9216, 10240}},
		" 3 \n# x\n\t4\r\n0\n":    {{0, 1024}, {3072, 5120}},
		"\ufeff3\r\n":             {{3072, 4096}},
		"7 # the worst":           {{7168, 8192}},
		"5 3\n":                   {{5120, 8192}},
		"5\t3":                    {{5120, 8192}},
		"5+3":                     {{5120, 8192}},
		"5-7\n+8-8":               {{5120, 9216}},
		"0x10\n0XfF":              {{16 << 10, 17 << 10}, {255 << 10, 256 << 10}},
		"0x10 0x10":               {{16 << 10, 32 << 10}},
		"010":                     {{10 << 10, 11 << 10}},
		"4294967296":              {{1 << 42, 1<<42 + 1024}},
		"17179869184-17179869186": {{1 << 44, 1<<44 + 3072}},
	} {
		got, err := read(text, Badblocks, 0, 1<<45)
		if err != nil || !slices.Equal(got.Ranges, want) || len(want) > 0 &&
			got.End != want[len(want)-1].End {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"x", "-1", "1.5", "1 2 3", "99999999999999999999", strings.Repeat("1", 100000), "1 0",
		"5-4", "1-", "1+", "+", "0x", "0x1g", "1 -2 3", "1_000", "\xff\xfe1\x00",
		"35184372088832", "34359738368", "34359738367 2", // past the end
	} {
		got, err := read("1\n\n"+text, Badblocks, 1024, 1<<45)
		if !errors.Is(err, ErrList) || !strings.Contains(err.Error(), "list:3: ") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%.20q: %v, %v", text, got, err)
		}
	}
	if l, err := read("1\n5 2\n", Badblocks, 512, 1<<30); err != nil || !l.Pairs {
		t.Errorf("%+v, %v", l, err)
	}
	// The last block of a disk may be cut short.
	if l, err := read("9", Badblocks, 1024, 9*1024+512); err != nil ||
		l.End != 9*1024+512 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, size := range []int{-1, 100, 513, 1 << 20} {
		if _, err := read("1", Badblocks, size, 1<<30); !errors.Is(err, ErrList) {
			t.Errorf("blocks of %d: %v", size, err)
		}
	}
}

// TestSubtract compares with the result for sets of bytes, and Intersect too.
func TestSubtract(t *testing.T) {
	rng := rand.New(rand.NewPCG(rand.Uint64(), 5))
	for range 2000 {
		draw := func() (list []Range) {
			for range rng.IntN(5) {
				at := rng.Int64N(30)
				list = append(list, Range{at, at + 1 + rng.Int64N(8)})
			}
			return list
		}
		list, minus := draw(), draw()
		in := func(list []Range, b int64) bool {
			return slices.ContainsFunc(list, func(r Range) bool {
				return r.Start <= b &&
					b < r.End
			})
		}
		got := Subtract(Merge(list), Merge(minus))
		both := Intersect(Merge(list), Merge(minus))
		for b := range int64(40) {
			if in(got, b) != (in(list, b) && !in(minus, b)) {
				t.Fatalf("%v less %v is %v", list, minus, got)
			}
			if in(both, b) != (in(list, b) && in(minus, b)) {
				t.Fatalf("%v and %v have %v", list, minus, both)
			}
		}
	}
}

// TestMillionLines: a long list is read quickly.
func TestMillionLines(t *testing.T) {
	var b strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintln(&b, (i*7919)%4_000_000)
	}
	l, err := read(b.String(), Badblocks, 4096, 1<<40)
	if err != nil || len(l.Ranges) == 0 {
		t.Fatal(err)
	}
}
