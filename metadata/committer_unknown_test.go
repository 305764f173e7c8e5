package metadata

import (
	"slices"
	"testing"
)

// TestUnknownManyTimes: while the backing refuses, the mirror of the spare device takes record
// after record of unknown outcome. They must not fill its log: once the backing is
// back, a Resume must end.
func TestUnknownManyTimes(t *testing.T) {
	w := single(t, pairParams(512))
	w.disks[0].failWrite = func(int64, int) bool { return true }
	entry := []Entry{{Unit: 7, Spare: 7, Count: 1, Mask: 1, State: StateMapped}}
	first := w.must(w.c.Commit(entry))
	if got := RunOps(w.c, devices(w.disks), nil); !slices.Equal(got,
		[]Result{{first, OutcomeUnknown}}) {
		t.Fatalf("%v", got)
	}
	resume := func() []Result {
		ticket := w.must(w.c.Resume(entry))
		var got []Result
		for range 1000 { // a bound that only a loop without end reaches
			ops := slices.Clone(w.c.Ops())
			for _, op := range ops {
				_, err := w.disks[op.Device].WriteAt(op.Data, op.Offset)
				w.c.Done(op.ID, err)
			}
			got = append(got, w.c.Results()...)
			if len(ops) == 0 && slices.ContainsFunc(got,
				func(r Result) bool { return r.Ticket == ticket }) {
				return got
			}
		}
		t.Fatalf("resume %d never ends: %+v", ticket, w.c.Status())
		return nil
	}
	for range 3 * len(w.c.mirrors[0].slots) {
		if got := resume(); len(got) != 1 || got[0].Outcome != OutcomeUnknown &&
			got[0].Outcome != OutcomeDropped {
			t.Fatalf("%v", got)
		}
	}
	w.disks[0].failWrite = nil
	if got := resume(); len(got) != 1 || got[0].Outcome != OutcomeDurable {
		t.Fatalf("%v", got)
	}
	w.check(SeverityWarning)
}
