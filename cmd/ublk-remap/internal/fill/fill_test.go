package fill

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/internal/lists"
)

// holed is an image of which some blocks do not read.
type holed struct {
	*bytes.Reader
	bad map[int64]bool
}

func (h holed) ReadAt(p []byte, off int64) (int, error) {
	for at := off; at < off+int64(len(p)); at += 512 {
		if h.bad[at/512] {
			return 0, errors.New("bad sector")
		}
	}
	return h.Reader.ReadAt(p, off)
}

// TestRunFillsWhatItHas: exactly the bad blocks that the source has and can read are sent with its
// data, in whole blocks, and each block is counted once.
func TestRunFillsWhatItHas(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	const blocks = 4000
	for range 50 {
		image := make([]byte, blocks*512)
		for i := 0; i < len(image); i += 8 {
			binary.LittleEndian.PutUint64(image[i:], rng.Uint64())
		}
		isBad, noImage := map[int64]bool{}, map[int64]bool{}
		var bad, have []lists.Range
		for range rng.IntN(60) {
			b := rng.Int64N(blocks - 20)
			n := 1 + rng.Int64N(20)
			bad = append(bad, lists.Range{Start: b * 512, End: (b + n) * 512})
			for i := b; i < b+n; i++ {
				isBad[i] = true
			}
		}
		bad = lists.Merge(bad)
		src := holed{bytes.NewReader(image), map[int64]bool{}}
		for range rng.IntN(4) {
			src.bad[rng.Int64N(blocks)] = true
		}
		all := lists.Range{End: blocks * 512}
		var not []lists.Range
		for range rng.IntN(5) {
			at := rng.Int64N(all.End - 3000)
			not = append(not, lists.Range{Start: at, End: at + 1 + rng.Int64N(3000)})
		}
		have = lists.Subtract([]lists.Range{all}, lists.Merge(not))
		for b := range int64(blocks) {
			r := []lists.Range{{Start: b * 512, End: b*512 + 512}}
			noImage[b] = len(lists.Subtract(r, have)) > 0 || src.bad[b]
		}
		filled := map[int64]bool{}
		d := Device{BlockSize: 512, Size: blocks * 512,
			Fill: func(_ context.Context, block uint64, data []byte) (*control.FillReply, error) {
				if len(data) == 0 || len(data) > control.MaxFill || len(data)%512 != 0 ||
					!bytes.Equal(data, image[block*512:][:len(data)]) {
					t.Fatalf("seed %d: %d bytes for block %d", seed, len(data), block)
				}
				var out strings.Builder
				for i := range int64(len(data) / 512) {
					b := int64(block) + i
					if !isBad[b] {
						out.WriteByte(control.FillNotBad)
						continue
					}
					if filled[b] {
						t.Fatalf("seed %d: block %d was filled twice", seed, b)
					}
					filled[b] = true
					out.WriteByte(control.FillDone)
				}
				return &control.FillReply{Outcomes: out.String()}, nil
			}}
		s := NewSource("image", src, 0, have)
		runs, missing := Plan(bad, s, 512)
		res, err := Run(context.Background(), d, s, bad, func(int64) {})
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		for b := range isBad {
			if !noImage[b] {
				want++
			}
			if filled[b] == noImage[b] {
				t.Fatalf("seed %d: block %d: filled %v, not in the image %v", seed, b, filled[b],
					noImage[b])
			}
		}
		if res.Bad != uint64(len(isBad)) || res.Filled != want || res.Missing != res.Bad-want ||
			res.Failed+res.Reads+res.NotBad != 0 {
			t.Fatalf("seed %d: %+v, want %d", seed, res, want)
		}
		if n := Count(runs, bad, 512); n+missing != res.Bad || n < want {
			t.Fatalf("seed %d: planned %d and %d of %d", seed, n, missing, res.Bad)
		}
	}
}

// TestRunEnds: once the server can fill no more, the rest counts as failed, with the reason. An
// error of the server ends the run.
func TestRunEnds(t *testing.T) {
	bad := []lists.Range{{Start: 0, End: 512}, {Start: 1 << 20, End: 1<<20 + 1024}}
	s := NewSource("image", bytes.NewReader(make([]byte, 2<<20)), 0,
		[]lists.Range{{Start: 0, End: 2 << 20}})
	calls := 0
	d := Device{BlockSize: 512, Size: 2 << 20,
		Fill: func(context.Context, uint64, []byte) (*control.FillReply, error) {
			calls++
			return &control.FillReply{Outcomes: "F", Reason: "no spare unit is free"}, nil
		}}
	res, err := Run(context.Background(), d, s, bad, func(int64) {})
	if err != nil || calls != 1 || res.Failed != 3 || res.Reason == "" {
		t.Errorf("%+v, %v, %d calls", res, err, calls)
	}
	d.Fill = func(context.Context, uint64, []byte) (*control.FillReply, error) {
		return nil, control.ErrNotRunning
	}
	if _, err := Run(context.Background(), d, s, bad, func(int64) {}); !errors.Is(err,
		control.ErrNotRunning) {
		t.Error(err)
	}
}
