package coordinator

import (
	"errors"
	"testing"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// TestRetestAgain: a home that does not pass is tested again after times that double.
func TestRetestAgain(t *testing.T) {
	const day, remapped = 86400, 1_700_000_000
	if !retestAgain(remapped, 0, remapped+1) || !retestAgain(remapped, remapped-day, remapped+day) {
		t.Error("the first pass leaves it out")
	}
	// Passes that end each day, and each week, for a year.
	for _, every := range []uint32{day, 7 * day} {
		var tested []uint32
		since := uint32(remapped) + 3600
		for now := since + every; now < remapped+365*day; now += every {
			if retestAgain(remapped, since, now) {
				tested = append(tested, (now-remapped)/day)
			}
			since = now
		}
		if n := len(tested); n < 6 || n > 9 {
			t.Errorf("passes each %d days: tested after %v days", every/day, tested)
		}
	}
	if retestAgain(remapped, remapped+10, remapped-5) {
		t.Error("a clock that goes back has blocks tested")
	}
}

// TestRetestOfOperatorComesFirst: it ends that of the scrub, which goes on after it. There is never
// more than one.
func TestRetestOfOperatorComesFirst(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{Elsewhere: 1})
	for unit := range uint64(3) {
		block := (700 + unit) * 8
		if err := r.Move(remap.Move{Block: block, Count: 8, ToSpare: true,
			Cause: metadata.CauseWrite}, func(remap.MoveResult) {}); err != nil {
			t.Fatal(err)
		}
		r.answerAll(nil)
	}
	r.scrub.now.Started, r.scrub.now.Finished = 1, 2
	r.retestAfterPass(0)
	r.pump()
	if st := r.Scrub().Retest; !st.Running || r.retest == nil || !r.retest.ask.scrub {
		t.Fatalf("%+v", st)
	}
	var ended []RetestProgress
	ask := Retest{Ranges: []metadata.BlockRange{{Block: 700 * 8, Count: 8}}, Elsewhere: 1}
	done := func(p RetestProgress) { ended = append(ended, p) }
	if err := r.Retest(ask, done); err != nil {
		t.Fatal(err)
	}
	if p, ok := r.RetestProgress(); !ok || p.Step != RetestFind || !r.retest.ask.scrub {
		t.Errorf("it waits: %+v, %v", p, ok)
	}
	if err := r.Retest(ask, done); !errors.Is(err, ErrRetesting) {
		t.Errorf("a second one: %v", err)
	}
	for n := 0; r.retest != nil && n < 1000; n++ {
		r.answerAll(nil)
		r.sleep(r.after(max(r.now, r.Deadline())))
	}
	if len(ended) != 1 || ended[0].Home != 8 || ended[0].Err != nil {
		t.Errorf("the operator's: %+v", ended)
	}
	st := r.Scrub().Retest
	if st.Running || st.Passed != 16 || st.Home != 0 {
		t.Errorf("that of the scrub: %+v", st)
	}
	if blocks, pass := r.arbiter.Well(701); blocks != 255 || pass != 1 {
		t.Errorf("remembered: %x after %d", blocks, pass)
	}
}

// TestGatheredEvents: many requests of a fill, and of an import, are one event each.
func TestGatheredEvents(t *testing.T) {
	r := newEventsRig(t)
	for i := range uint64(5) {
		r.gather(metadata.EventFilled, 100*i, 3, 4, false)
		r.now += gatherFor / 2
		r.Tick()
	}
	r.gatherMark([]metadata.BlockRange{{Block: 7, Count: 9}},
		&remap.MarkResult{Marked: 8, Known: 1})
	r.gather(metadata.EventFilled, 50, 1, 1, true)
	if due := r.EventsDue(); due == 0 {
		t.Fatal("nothing is due")
	}
	r.now += gatherFor
	r.Tick()
	want := []struct {
		kind          metadata.EventKind
		done          metadata.EventDone
		block, detail uint64
		count         uint32
	}{{metadata.EventFill, metadata.EventFilled, 0, 20, 15},
		{metadata.EventImport, metadata.EventImported, 7, 9, 8},
		{metadata.EventFill, metadata.EventZeroed, 50, 1, 1}}
	got := r.events()
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		if e := got[i]; e.Kind != w.kind || e.Done != w.done || e.Block != w.block ||
			e.Detail != w.detail || e.Count != w.count {
			t.Errorf("%+v, want %+v", e, w)
		}
	}
}
