package badblocks

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"ublkremap/metadata"
)

func listFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
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
		for _, path := range []string{listFile(t, text), "-"} {
			got, err := Read(path, strings.NewReader(text), Format{1024, 1 << 45})
			if err != nil || !slices.Equal(got.Ranges, want) || len(want) > 0 &&
				got.End != want[len(want)-1].End {
				t.Errorf("%q: %v, %v", text, got, err)
			}
		}
	}
	for _, text := range []string{
		"x", "-1", "1.5", "1 2 3", "99999999999999999999", strings.Repeat("1", 100000), "1 0",
		"5-4", "1-", "1+", "+", "0x", "0x1g", "1 -2 3", "1_000", "\xff\xfe1\x00",
		"35184372088832", "34359738368", "34359738367 2", // past the end
	} {
		got, err := Read(listFile(t, "1\n\n"+text), nil, Format{1024, 1 << 45})
		if !errors.Is(err, ErrList) || !strings.Contains(err.Error(), "list:3: ") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%.20q: %v, %v", text, got, err)
		}
	}
	if l, err := Read(listFile(t, "1\n5 2\n"), nil, Format{512, 1 << 30}); err != nil || !l.Pairs {
		t.Errorf("%+v, %v", l, err)
	}
	// The last block of a disk may be cut short.
	if l, err := Read(listFile(t, "9"), nil, Format{1024, 9*1024 + 512}); err != nil ||
		l.End != 9*1024+512 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, size := range []int{0, -1, 100, 513, 1 << 20} {
		if _, err := Read(listFile(t, "1"), nil, Format{size, 1 << 30}); !errors.Is(err, ErrList) {
			t.Errorf("blocks of %d: %v", size, err)
		}
	}
	if _, err := Read("/no/such/list", nil, Format{1024, 1 << 30}); !errors.Is(err,
		os.ErrNotExist) {
		t.Error(err)
	}
}

// TestSubtract compares with the result for sets of bytes.
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
		for b := range int64(40) {
			if in(got, b) != (in(list, b) && !in(minus, b)) {
				t.Fatalf("%v less %v is %v", list, minus, got)
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
	l, err := Read(listFile(t, b.String()), nil, Format{4096, 1 << 40})
	if err != nil || len(l.Ranges) == 0 {
		t.Fatal(err)
	}
}

func plan(t testing.TB, block int) *metadata.Layout {
	t.Helper()
	l, err := metadata.Plan(metadata.PlanParams{BackingSize: 64 << 20, BlockSize: block,
		SpareBytes: 1 << 20, Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestPlace compares with the result that follows from the layout, byte by byte.
func TestPlace(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	for _, block := range []int{512, 4096} {
		l := plan(t, block)
		per := metadata.UnitSize / block
		// Where each exported block and each spare unit lies on the backing.
		home := map[int64]uint64{}
		for b := range l.Blocks() {
			_, off := l.HomeOf(b)
			home[off] = b
		}
		spare := map[int64]uint32{}
		for u := range uint32(l.SpareUnits()) {
			_, off := l.SpareOf(u)
			spare[off] = u
		}
		for range 50 {
			var list []Range
			at := int64(0)
			for {
				at += int64(rng.IntN(4<<20)/512) * 512
				n := int64(1+rng.IntN(40)) * 512
				if at+n > 64<<20 {
					break
				}
				list = append(list, Range{at, at + n})
				at += n + 512
			}
			wantPending, wantRetired, wantMeta := map[uint64]bool{}, map[uint32]bool{}, uint64(0)
			for _, r := range list {
				for off := r.Start; off < r.End; off += 512 {
					if b, ok := home[off/int64(block)*int64(block)]; ok {
						wantPending[b] = true
					} else if u, ok := spare[off/metadata.UnitSize*metadata.UnitSize]; ok {
						wantRetired[u] = true
					} else {
						wantMeta += 512
					}
				}
			}
			got, err := Place(list, l, 77)
			if err != nil {
				t.Fatal(err)
			}
			pending, retired := map[uint64]bool{}, map[uint32]bool{}
			for _, e := range got.Entries {
				if err := l.ValidateEntry(e); err != nil {
					t.Fatalf("%+v: %v", e, err)
				}
				if e.Cause != metadata.CauseImport || e.Time != 77 {
					t.Errorf("%+v", e)
				}
				for i := range e.Count {
					if e.State == metadata.StateRetired {
						if retired[e.Spare+i] {
							t.Errorf("spare unit %d twice", e.Spare+i)
						}
						retired[e.Spare+i] = true
						continue
					}
					for bit := range per {
						if e.Mask>>bit&1 != 0 {
							pending[(e.Unit+uint64(i))*uint64(per)+uint64(bit)] = true
						}
					}
				}
			}
			if !reflect.DeepEqual(pending, wantPending) || !reflect.DeepEqual(retired,
				wantRetired) {
				t.Fatalf("blocks of %d: %d pending, want %d; %d retired, want %d", block,
					len(pending), len(wantPending), len(retired), len(wantRetired))
			}
			if got.Blocks != uint64(len(pending)) || got.Spares != uint64(len(retired)) ||
				got.Metadata != wantMeta {
				t.Errorf("%d, %d, %d; want %d, %d, %d", got.Blocks, got.Spares, got.Metadata,
					len(pending), len(retired), wantMeta)
			}
		}
	}
}

func TestPlacePastTheEnd(t *testing.T) {
	if _, err := Place([]Range{{64 << 20, 64<<20 + 512}}, plan(t, 512), 0); !errors.Is(err,
		ErrList) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("1\n2\n#\n")
	f.Add("1 2\n0x3-0x5\n+7+8")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Read(listFile(t, text), nil, Format{4096, 1 << 40})
		if err != nil {
			return
		}
		for i, r := range list.Ranges {
			if r.Start >= r.End || i > 0 && r.Start <= list.Ranges[i-1].End || r.End > 1<<40 {
				t.Fatalf("%v", list)
			}
		}
	})
}

// TestListWithoutAnEnd: a list of more than the largest spare region holds costs no memory.
func TestListWithoutAnEnd(t *testing.T) {
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: 1 << 40, BlockSize: 512,
		PhysicalBlockSize: 4096, Name: "a", UUID: uuid.New()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Place([]Range{{Start: 1 << 30, End: 1<<30 + (maxUnits+1)*metadata.UnitSize}}, plan,
		1); !errors.Is(err, ErrList) {
		t.Error(err)
	}
}
