package coordinator

import (
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// answerAll ends what is under way at the disks and at the Committer, until nothing is. fails says
// which operations fail for their medium.
func (r *rig) answerAll(fails func(*IO) bool) {
	r.t.Helper()
	for n := 0; len(r.ios)+len(r.graces) > 0 || r.com.next > r.told; n++ {
		if n > 10_000 {
			r.t.Fatal("it never ends")
		}
		if len(r.graces) > 0 {
			m := remap.Message{Kind: remap.MsgGraceDone, Generation: r.graces[0]}
			r.graces = r.graces[1:]
			r.Receive(&m)
			r.Step()
			continue
		}
		if r.com.next > r.told {
			r.told++
			r.com.results = append(r.com.results, metadata.Result{Ticket: r.told,
				Outcome: metadata.OutcomeDurable})
			r.Step()
			continue
		}
		if io := r.ios[0]; fails != nil && fails(&io) {
			r.answer(-int32(61)) // ENODATA
		} else {
			if io.Kind == Read {
				copy(io.Data, r.content[io.Offset])
			}
			if io.Kind == Write {
				r.content[io.Offset] = append([]byte(nil), io.Data...)
			}
			r.answer(int32(len(io.Data)))
		}
	}
}

// TestScrubMendsWeakBlocks: what was read on a retry is moved to the spare region and home again;
// where home fails it stays.
func TestScrubMendsWeakBlocks(t *testing.T) {
	for _, homeFails := range []bool{false, true} {
		r := newScrubRig(t, ScrubConfig{})
		r.start(ScrubOptions{})
		r.tick()
		if len(r.scrubs) != ScrubTags {
			t.Fatalf("%d reads", len(r.scrubs))
		}
		reads := r.scrubs
		r.scrubs = nil
		weak := remap.Run{Start: reads[1].Block + 9, Count: 2}
		for _, s := range reads {
			res := ScrubResult{Tag: s.Tag}
			if s.Tag == 1 {
				res.Weak = []remap.Run{weak}
			}
			r.ScrubDone(&res)
		}
		if st := r.Scrub(); !st.Mending || st.Position != 0 || r.ScrubDue() > r.now {
			t.Errorf("while it mends: %+v, due %d", st, r.ScrubDue())
		}
		device, home := r.shared.Geometry().HomeOffset(weak.Start)
		r.answerAll(func(io *IO) bool {
			return homeFails && io.Kind == Write && io.Device == device && io.Offset == home
		})
		st := r.Scrub()
		if st.Mending || st.Weak != 2 || st.Position != reads[3].Block+uint64(reads[3].Count) {
			t.Errorf("mended: %+v", st)
		}
		n := r.shared.Map().Counts().Mapped
		switch {
		case homeFails && (st.Relocated != 2 || st.Repaired != 0 || n != 1):
			t.Errorf("home fails: %+v, %d units mapped", st, n)
		case !homeFails && (st.Repaired != 2 || st.Relocated != 0 || n != 0):
			t.Errorf("home is well: %+v, %d units mapped", st, n)
		}
	}
}

// TestScrubReadsFreeSpareUnits: one that does not read is not given out while there are others.
func TestScrubReadsFreeSpareUnits(t *testing.T) {
	r := newScrubRig(t, ScrubConfig{})
	device, bad := r.shared.Geometry().SpareOffset(5)
	r.start(ScrubOptions{Rate: 1 << 40})
	for n := 0; r.Scrub().State == metadata.ScrubRunning; n++ {
		if n > 10_000 {
			t.Fatal("it never ends")
		}
		r.tick()
		for len(r.scrubs) > 0 {
			s := r.scrubs[0]
			r.scrubs = r.scrubs[1:]
			r.ScrubDone(&ScrubResult{Tag: s.Tag})
		}
		r.answerAll(func(io *IO) bool {
			return io.Kind == Read && io.Device == device && io.Offset <= bad &&
				bad < io.Offset+int64(len(io.Data))
		})
		r.now += int64(time.Millisecond)
	}
	if st := r.Scrub(); st.BadSpares != 1 || r.Status().Arbiter.Suspect != 1 {
		t.Errorf("%+v, %+v", st, r.Status().Arbiter)
	}
}
