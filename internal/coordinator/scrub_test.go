package coordinator

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

const scrubTestBlocks = 512

// newScrubRig is a Coordinator whose scrub reads 512 blocks at once.
func newScrubRig(t *testing.T, cfg ScrubConfig) *rig {
	t.Helper()
	r := newRig(t, metadata.RetryLimits{})
	cfg.MaxBlocks = scrubTestBlocks
	r.initScrub(cfg, metadata.Scrub{})
	return r
}

// tick lets the scrub take its next step, when it is due.
func (r *rig) tick() {
	r.t.Helper()
	if due := r.ScrubDue(); due != 0 {
		r.now = max(r.now, due)
	}
	r.TickScrub()
}

// end ends all reads of the scrub, each after some time, and what it asks of the spare region.
func (r *rig) end(took time.Duration) {
	for len(r.ios) > 0 {
		r.now += int64(took)
		r.answer(int32(len(r.ios[0].Data)))
	}
	for len(r.scrubs) > 0 {
		s := r.scrubs[0]
		r.scrubs = r.scrubs[1:]
		r.now += int64(took)
		r.ScrubDone(&ScrubResult{Tag: s.Tag})
	}
}

func (r *rig) start(o ScrubOptions) {
	r.t.Helper()
	if err := r.StartScrub(o); err != nil {
		r.t.Fatal(err)
	}
}

func TestScrubReadsEveryBlockOnce(t *testing.T) {
	for _, rotational := range []bool{false, true} {
		r := newScrubRig(t, ScrubConfig{Rotational: rotational})
		r.shared.Map().Apply(metadata.Entry{Unit: 700, Count: 1, Mask: 6,
			State: metadata.StatePending})
		r.start(ScrubOptions{Rate: 1 << 40})
		read := make([]int, r.blocks())
		for r.Scrub().State == metadata.ScrubRunning {
			r.tick()
			if len(r.scrubs) > ScrubTags {
				t.Fatalf("%d reads at once", len(r.scrubs))
			}
			for _, s := range r.scrubs {
				if s.Count == 0 || s.Count > scrubTestBlocks {
					t.Fatalf("a read of %d blocks", s.Count)
				}
				for b := range uint64(s.Count) {
					read[s.Block+b]++
				}
			}
			r.end(time.Millisecond)
		}
		for b, n := range read {
			want := 1
			if b == 700*8+1 || b == 700*8+2 {
				want = 0 // known not to read
			}
			if n != want {
				t.Fatalf("block %d was read %d times, want %d", b, n, want)
			}
		}
		st := r.Scrub()
		if st.Finished != r.WallClock() || st.Position != 0 || r.com.scrub != st.Scrub {
			t.Errorf("at the end: %+v; saved: %+v", st, r.com.scrub)
		}
	}
}

// The position covers blocks at the end that are left out at the moment when that is decided. Later
// they may be well again.
func TestScrubTellsThatAllBlocksWereRead(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	last := r.blocks() - 1
	r.shared.Map().Apply(metadata.Entry{Unit: last / 8, Count: 1, Mask: 1 << (last % 8),
		State: metadata.StatePending})
	r.start(ScrubOptions{Rate: 1 << 40})
	for len(r.ios) == 0 { // until free spare units are being read
		if at := r.com.scrub.Position; at > last {
			t.Fatalf("the scrub is at block %d, and has left no block out yet", at)
		}
		r.end(time.Millisecond)
		r.tick()
	}
	if at := r.com.scrub.Position; at != r.blocks() {
		t.Errorf("spare units are being read, and the position is told as %d, not %d", at,
			r.blocks())
	}
}

func TestScrubKeepsToItsRate(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	const rate = 4 << 20
	r.start(ScrubOptions{Rate: rate})
	began := r.now
	for r.Scrub().State == metadata.ScrubRunning {
		r.tick()
		r.end(time.Microsecond)
	}
	bytes := float64(r.blocks()) * float64(r.blockSize)
	took := float64(r.now-began) / 1e9
	if got := bytes / took; got > 1.15*rate || got < 0.9*rate { // the last burst has no pause
		t.Errorf("%.0f bytes a second, want %d", got, rate)
	}
}

// use makes a user's request end.
func (r *rig) use(e *remap.Engine) {
	e.Submit(&remap.Request{Op: remap.OpDiscard, Block: 1 << 40, Count: 1}) // fails at once
	e.Publish()
}

// engineDriver is for an engine whose requests all fail at once.
type engineDriver struct{ r *rig }

func (d engineDriver) Issue(*remap.IO)      {}
func (d engineDriver) Finish(uint16, int32) {}
func (d engineDriver) Send(*remap.Message)  {}
func (d engineDriver) Now() int64           { return d.r.now }

func TestScrubLeavesTheDiskToUsers(t *testing.T) {
	for _, c := range []struct {
		name       string
		rotational bool
		took       time.Duration // one read
		share      float64       // of the time, at most
		least      float64       // bytes a second, at least
	}{
		{"an SSD", false, 500 * time.Microsecond, 0.011, 4.5 * (1 << 20)},
		{"a disk", true, 8 * time.Millisecond, 0.035, 1 << 20},
		{"a slow disk", true, 100 * time.Millisecond, 0.45, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newScrubRig(t, ScrubConfig{Rotational: c.rotational})
			e := remap.NewEngine(remap.EngineConfig{Depth: 1, MaxBlocks: 8, ZeroBlocks: 8},
				r.shared, engineDriver{r})
			r.start(ScrubOptions{})
			began, busy := r.now, int64(0)
			for r.Scrub().State == metadata.ScrubRunning {
				r.use(e)
				r.tick()
				before := r.now
				r.end(c.took)
				busy += r.now - before
				r.use(e)
			}
			took := r.now - began
			if share := float64(busy) / float64(took); share > c.share {
				t.Errorf("it had the disk for %.1f %% of the time", 100*share)
			}
			rate := float64(r.blocks()) * float64(r.blockSize) * 1e9 / float64(took)
			if rate < 0.95*c.least {
				t.Errorf("it reads %.0f bytes a second", rate)
			}
		})
	}
}

func TestScrubOfAnIdleDevice(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	e := remap.NewEngine(remap.EngineConfig{Depth: 1, MaxBlocks: 8, ZeroBlocks: 8}, r.shared,
		engineDriver{r})
	r.use(e)
	r.start(ScrubOptions{Idle: true})
	for range 50 {
		r.use(e)
		r.tick()
		if len(r.scrubs) > 0 {
			t.Fatal("it reads beside a user")
		}
	}
	if w := r.Scrub().Waits; w == "" {
		t.Error("it does not say why it waits")
	}
	for n := 0; len(r.scrubs) == 0; n++ {
		if n > 10 {
			t.Fatal("it does not read once the users have left")
		}
		r.tick()
	}
}

func TestScrubPositionIsBehindWhatWasRead(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	r.start(ScrubOptions{})
	r.tick()
	if len(r.scrubs) != ScrubTags {
		t.Fatalf("%d reads", len(r.scrubs))
	}
	// The second read ends for its path, before the others: nothing from there on counts.
	reads := slices.Clone(r.scrubs)
	r.scrubs = nil
	for _, i := range []int{1, 3, 2, 0} {
		if p := r.com.scrub.Position; p != 0 {
			t.Fatalf("position %d, and the first read has not ended", p)
		}
		res := ScrubResult{Tag: reads[i].Tag, Failed: 1}
		if i == 1 {
			res.Ended, res.Failed = -int32(syscall.ENOLINK), 0
		}
		r.ScrubDone(&res)
	}
	if p := r.Scrub().Position; p != reads[1].Block {
		t.Errorf("position %d, want %d", p, reads[1].Block)
	}
	if due := r.after(r.ScrubDue()); due < time.Second {
		t.Errorf("after an error of the path it goes on after %v", due)
	}
	r.tick()
	if len(r.scrubs) == 0 || r.scrubs[0].Block != reads[1].Block {
		t.Fatalf("it goes on with %+v", r.scrubs)
	}
	// The wait grows with each error, up to a minute.
	var waits []time.Duration
	for range 9 {
		for len(r.scrubs) > 0 {
			s := r.scrubs[0]
			r.scrubs = r.scrubs[1:]
			r.ScrubDone(&ScrubResult{Tag: s.Tag, Failed: s.Count, NotNoted: true})
		}
		waits = append(waits, r.after(r.ScrubDue()))
		r.tick()
	}
	if !slices.IsSorted(waits) || waits[8] != time.Minute || r.Scrub().Unreadable != 3 {
		t.Errorf("waits %v, %+v", waits, r.Scrub())
	}
}

func TestScrubVerbs(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	want := func(err, is error) {
		t.Helper()
		if !errors.Is(err, is) || (err == nil) != (is == nil) {
			t.Fatalf("%v, want %v", err, is)
		}
	}
	want(r.PauseScrub(), ErrScrubNone)
	want(r.ResumeScrub(), ErrScrubNone)
	want(r.StopScrub(), ErrScrubNone)
	r.start(ScrubOptions{Rate: 3 << 20})
	want(r.StartScrub(ScrubOptions{}), ErrScrubRuns)
	want(r.ResumeScrub(), ErrScrubRunning)
	r.tick()
	want(r.PauseScrub(), nil)
	want(r.PauseScrub(), ErrScrubPaused)
	want(r.StartScrub(ScrubOptions{}), ErrScrubPaused)
	r.end(time.Millisecond)
	position := r.Scrub().Position
	if position == 0 || r.ScrubDue() != 0 || r.com.scrub.Position != position ||
		r.com.scrub.State != metadata.ScrubPaused {
		t.Fatalf("paused: %+v, due %d, saved %+v", r.Scrub(), r.ScrubDue(), r.com.scrub)
	}
	want(r.ResumeScrub(), nil)
	r.tick()
	if r.scrubs[0].Block != position {
		t.Errorf("it goes on at %d, not %d", r.scrubs[0].Block, position)
	}
	// What is under way when it is stopped moves nothing, also if it is started again.
	want(r.StopScrub(), nil)
	r.start(ScrubOptions{})
	r.end(time.Millisecond)
	if p := r.Scrub().Position; p != 0 {
		t.Errorf("position %d of a pass that has read nothing", p)
	}
	r.tick()
	if len(r.scrubs) == 0 || r.scrubs[0].Block != 0 {
		t.Errorf("it begins with %+v", r.scrubs)
	}
	r.HoldScrub()
	if r.ScrubDue() != 0 || r.Scrub().State != metadata.ScrubRunning {
		t.Error("it goes on although the queues end")
	}
}

func TestScrubInterval(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	// The clock of the rig stands still, so the next pass is due when its interval is over.
	s := metadata.Scrub{Started: r.WallClock() - 100, Finished: r.WallClock() - 50, Interval: 90,
		Rate: 1000}
	r.initScrub(ScrubConfig{MaxBlocks: scrubTestBlocks}, s)
	r.tick()
	if st := r.Scrub(); st.State != metadata.ScrubRunning || st.Started != r.WallClock() ||
		st.Interval != 90 || st.Finished != s.Finished {
		t.Errorf("a pass that is due: %+v", st)
	}
	s.Interval = 200
	r.initScrub(ScrubConfig{MaxBlocks: scrubTestBlocks}, s)
	r.tick()
	if st := r.Scrub(); st.State != metadata.ScrubIdle || r.after(r.ScrubDue()) != time.Minute {
		t.Errorf("a pass that is due in 100 seconds: %+v, in %v", st, r.after(r.ScrubDue()))
	}
}
