package coordinator

import (
	"slices"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// slowRig is a scrub of a disk whose reads take the time that took says.
type slowRig struct {
	*rig
	reads int
	took  func(s ScrubRead) time.Duration
	spare func(io *IO) // if not nil, is called with each operation of the Arbiter
}

// pass lets the scrub run to its end.
func (r *slowRig) pass() {
	r.t.Helper()
	for n := 0; r.Scrub().State == metadata.ScrubRunning; n++ {
		if n > 20_000 {
			r.t.Fatalf("it never ends: %+v", r.Scrub())
		}
		r.tick()
		for len(r.scrubs) > 0 {
			s := r.scrubs[0]
			r.scrubs = r.scrubs[1:]
			r.reads++
			took := r.took(s)
			r.now += int64(took)
			r.ScrubDone(&ScrubResult{Tag: s.Tag, Slowest: took, SlowBlock: s.Block,
				SlowCount: s.Count})
		}
		r.answerAll(func(io *IO) bool {
			if r.spare != nil {
				r.spare(io)
			}
			return false
		})
	}
}

// over reports whether a read is about any of some blocks.
func over(s ScrubRead, block, count uint64) bool {
	return s.Block < block+count && block < s.Block+uint64(s.Count)
}

func newSlowRig(t *testing.T, rotational bool, took func(ScrubRead) time.Duration) *slowRig {
	return &slowRig{rig: newScrubRig(t, ScrubConfig{Rotational: rotational}), took: took}
}

// TestScrubFindsSlowBlocks: the unit that is slow each time is found, and nothing else, although
// other reads are slow now and then: seldom, or for a while, or all of them from some time on.
func TestScrubFindsSlowBlocks(t *testing.T) {
	for _, rotational := range []bool{false, true} {
		for name, noise := range map[string]func(r *slowRig) time.Duration{
			"quiet": func(*slowRig) time.Duration { return 0 },
			"hiccups": func(r *slowRig) time.Duration {
				return time.Duration(r.reads%23/22) * time.Second
			},
			"load comes": func(r *slowRig) time.Duration {
				return time.Duration(r.reads/40) * 30 * time.Millisecond
			},
			"a pause": func(r *slowRig) time.Duration {
				if r.reads > 36 && r.reads < 44 {
					return 2 * time.Second
				}
				return 0
			},
		} {
			var r *slowRig
			r = newSlowRig(t, rotational, func(s ScrubRead) time.Duration {
				took := time.Millisecond + noise(r)
				if over(s, 8000, 8) {
					took += 3 * time.Second
				}
				return took
			})
			if r.blocks() < 36*scrubTestBlocks {
				t.Fatal("the disk is too small for this test")
			}
			r.start(ScrubOptions{Rate: 1 << 40})
			r.pass()
			r.start(ScrubOptions{Rate: 1 << 40}) // the median is known from the last pass
			r.pass()
			want := []remap.Run{{Start: 8000, Count: 8}}
			if got := r.SlowBlocks(nil); !slices.Equal(got, want) || r.Scrub().Slow != 8 ||
				r.com.scrub.Slow != 8 {
				t.Errorf("rotational %v, %s: %v, %+v", rotational, name, got, r.Scrub())
			}
		}
	}
}

// TestScrubRelocatesSlowBlocks: slow blocks move to spare units, but never to slow ones, and only
// as long as half of the spare region stays.
func TestScrubRelocatesSlowBlocks(t *testing.T) {
	for _, slowUnits := range []uint64{3, 30} {
		for _, relocate := range []bool{false, true} {
			r := newSlowRig(t, false, func(s ScrubRead) time.Duration {
				if over(s, 8000, 8*slowUnits) {
					return time.Second
				}
				return time.Millisecond
			})
			spares, home := r.arbiter.Status().Total, r.shared.Geometry()
			r.spare = func(io *IO) { // the first four spare units are slow
				for u := range uint32(4) {
					d, off := home.SpareOffset(u)
					switch {
					case io.Device != d || off < io.Offset || off >= io.Offset+int64(len(io.Data)):
					case io.Kind == Read:
						r.now += int64(time.Second)
					case io.Kind == Write:
						t.Errorf("spare unit %d is slow, and is written to", u)
					}
				}
			}
			r.start(ScrubOptions{Rate: 1 << 40, RelocateSlow: relocate})
			r.pass()
			n := r.shared.Map().Counts().Mapped
			want := min(slowUnits, spares/2-4)
			left := 8 * (slowUnits - want)
			if !relocate {
				want, left = 0, 8*slowUnits
			}
			var listed uint64
			for _, run := range r.SlowBlocks(nil) {
				listed += run.Count
			}
			if st := r.Scrub(); n != want || uint64(st.Relocated) != 8*want || listed != left ||
				uint64(st.Slow) != 8*slowUnits || st.RelocateSlow != relocate ||
				st.SlowSpares != 4 {
				t.Errorf("%d slow, relocate %v: %d of %d units moved, %d blocks listed, %+v",
					slowUnits, relocate, n, spares, listed, st)
			}
		}
	}
}
