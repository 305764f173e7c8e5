package badblocks

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"ublkremap/metadata"
)

// TestRead: a list is read as badblocks(8) writes it.
func TestRead(t *testing.T) {
	if _, err := Read(strings.NewReader("7\n9\nx"), "list", 4096, 1<<30); !errors.Is(err,
		ErrList) || !strings.Contains(err.Error(), "list:3: ") {
		t.Error(err)
	}
	l, err := Read(strings.NewReader("7\n"), "-", 4096, 1<<30)
	if err != nil || !slices.Equal(l.Ranges, []Range{{Start: 7 * 4096, End: 8 * 4096}}) {
		t.Error(l, err)
	}
	for _, size := range []int{0, -1, 100, 513, 1 << 20} {
		if _, err := Read(strings.NewReader("1"), "-", size, 1<<30); !errors.Is(err, ErrList) {
			t.Errorf("blocks of %d: %v", size, err)
		}
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
				list = append(list, Range{Start: at, End: at + n})
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
	_, err := Place([]Range{{Start: 64 << 20, End: 64<<20 + 512}}, plan(t, 512), 0)
	if !errors.Is(err, ErrList) {
		t.Error(err)
	}
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
