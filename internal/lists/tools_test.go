package lists

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestToolsFiles reads what the tools themselves have written.
func TestToolsFiles(t *testing.T) {
	finished := []Range{{0x4000, 0x4200}, {0x14000, 0x17000}}
	for _, c := range []struct {
		file, format, status string
		want                 []Range
	}{
		{"ddrescue/finished.map", Ddrescue, "", finished},
		{"ddrescue/not-tried.map", Ddrescue, "", finished},
		{"ddrescue/not-tried.map", Ddrescue, "?", []Range{{0x40000, 0x100000}}},
		{"ddrescue/not-trimmed.map", Ddrescue, "", []Range{{0, 0x20000}}},
		{"ddrescue/not-trimmed.map", Ddrescue, "-", nil},
		{"ddrescue/not-scraped.map", Ddrescue, "", []Range{{0x4000, 0x17000}}},
		{"ddrescue/not-scraped.map", Ddrescue, "-", []Range{{0x4000, 0x4200}, {0x16e00, 0x17000}}},
		{"ddrescue/not-scraped.map", Ddrescue, "/", []Range{{0x4200, 0x16e00}}},
		{"e2fsprogs/dumpe2fs-b.txt", Badblocks, "", []Range{{1000 << 10, 1002 << 10},
			{1500 << 10, 1501 << 10}, {7000 << 10, 7001 << 10}}},
	} {
		b, err := os.ReadFile("testdata/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(bytes.NewReader(b), c.file, Options{Format: c.format, Size: 8 << 20,
			Status: c.status})
		if err != nil || !slices.Equal(got.Ranges, c.want) {
			t.Errorf("%s, status %q: %v, %v", c.file, c.status, got, err)
		}
		if c.format != Ddrescue {
			continue
		}
		// A map that was cut within a line is refused, unless what is left is a whole map.
		for n := range b {
			l, err := Read(bytes.NewReader(b[:n]), "map", Options{Format: Ddrescue, Size: 8 << 20})
			whole := n == 0 || b[n] == '\n' || b[n-1] == '\n'
			if err == nil && !whole && !bytes.HasSuffix(b[:n], []byte("#")) &&
				!commentOf(b[:n]) && !cutNumber(b, n) {
				t.Errorf("%s, cut after %d bytes: %v", c.file, n, l.Ranges)
			}
		}
	}
}

// TestNVMeFiles reads what nvme itself has printed.
func TestNVMeFiles(t *testing.T) {
	for name, want := range map[string][]Range{
		"none": nil, "zero": {{0, 512}},
		"two": {{256 * 512, 258 * 512}, {1234567890123 * 512, 1234567890131 * 512}},
		"three": {{9 * 512, 10 * 512}, {16 * 512, 4294967311 * 512},
			{10995116277760 * 512, 10995116277761 * 512}},
	} {
		files, err := filepath.Glob("testdata/nvme/*-" + name + ".*")
		if err != nil || len(files) < 2 {
			t.Fatalf("%q, %v", files, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			o := Options{Format: NVMe, Size: 1 << 53}
			if got, err := Read(bytes.NewReader(b), file, o); err != nil ||
				!slices.Equal(got.Ranges, want) {
				t.Errorf("%s: %v, %v, want %v", file, got, err, want)
			}
			// One that was cut is refused, unless only its last words are gone.
			for n := range b {
				got, err := Read(bytes.NewReader(b[:n]), file, o)
				if err == nil && !slices.Equal(got.Ranges, want) {
					t.Errorf("%s, cut after %d bytes: %v", file, n, got.Ranges)
				}
			}
		}
	}
}

// commentOf reports whether a text ends within a comment.
func commentOf(b []byte) bool {
	return b[bytes.LastIndexByte(b, '\n')+1] == '#'
}

// cutNumber reports whether a cut leaves the first line of a map, which may have two fields or
// three, or blanks behind a line.
func cutNumber(b []byte, n int) bool {
	line := b[bytes.LastIndexByte(b[:n], '\n')+1 : n]
	f := strings.Fields(string(line))
	return len(f) == 0 || len(f) >= 2 && len(f[1]) == 1 || len(f) == 3
}

// TestRoundTrip: what is written is read back as it was, for all block sizes.
func TestRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range 400 {
		block := int64(512) << (i % 8)
		size := 1<<20*block + int64(i%3)*1<<42
		var ranges []Range
		for at := rng.Int64N(9); at < 1<<20; at += 1 + rng.Int64N(1<<16) {
			n := min(1+rng.Int64N(20), 1<<20-at)
			ranges = append(ranges, Range{at * block, (at + n) * block})
			at += n
		}
		for format, write := range map[string]func(*bytes.Buffer) error{
			Badblocks: func(b *bytes.Buffer) error {
				return WriteBadblocks(b, slices.Values(ranges), block)
			},
			Ddrescue: func(b *bytes.Buffer) error {
				return WriteDdrescue(b, slices.Values(ranges), size, "a # title")
			},
		} {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			o := Options{Format: format, Size: size}
			if format == Badblocks {
				o.Block = int(block)
			}
			got, err := Read(&b, "list", o)
			if err != nil || !slices.Equal(got.Ranges, ranges) {
				t.Fatalf("%s, blocks of %d: %v, %v, want %v", format, block, got, err, ranges)
			}
		}
	}
}

// TestNumbersPastAnyDevice: each is refused with its number, however large it is.
func TestNumbersPastAnyDevice(t *testing.T) {
	for _, n := range []string{"35184372088833", "9223372036854775807", "9223372036854775808",
		"18446744073709551615", "18446744073709551616"} {
		for _, form := range []string{"%s", "%s 1", "1+%s", "1-%s"} {
			text := fmt.Sprintf(form, n)
			_, err := read("1\n"+text, Badblocks, 512, 1<<45)
			wantError(t, text, "list:2: ", err)
			if err != nil && !strings.Contains(err.Error(), n) {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}

// BenchmarkRead reads a million lines, of scattered blocks.
func BenchmarkRead(b *testing.B) {
	var text strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintln(&text, (i*7919)%40_000_000)
	}
	b.ReportAllocs()
	for range b.N {
		if _, err := read(text.String(), Badblocks, 4096, 1<<40); err != nil {
			b.Fatal(err)
		}
	}
}
