package metadata

import "testing"

// TestRetryNow: on an idle device, a mirror without a good place is retried when its time has come,
// and is found good. A set whose mirrors are all good needs no clock.
func TestRetryNow(t *testing.T) {
	w := ran(t, smallParams(512, 0), 66, 3)
	if w.settle(); w.c.BackedOff() {
		t.Fatal("all is well, and something waits")
	}
	writes := 0
	bad := w.at(0, append(w.c.sb.now.mirrorPlaces(0), w.c.mirrors[0].start)...)
	w.fail = func(op Op) bool {
		if bad(op) {
			writes++
			return true
		}
		return false
	}
	w.commit()
	w.settle()
	for range 12 {
		if !w.c.BackedOff() || w.c.mirrors[0].state != MirrorStale {
			t.Fatalf("nothing waits, and %+v", w.c.Status().Mirrors)
		}
		// Before RetryNow is called nothing is tried.
		before, records := writes, w.c.records
		if w.settle(); writes != before {
			t.Fatal("tried too early")
		}
		w.c.RetryNow()
		if w.settle(); writes == before {
			t.Fatal("not tried")
		}
		if w.c.records > records+1 {
			t.Fatalf("%d records for one try", w.c.records-records)
		}
	}
	w.fail = nil
	w.c.RetryNow()
	w.settle()
	if w.c.mirrors[0].state != MirrorGood || w.c.BackedOff() {
		t.Errorf("%+v; waits: %v", w.c.Status().Mirrors, w.c.BackedOff())
	}
	w.check(SeverityInfo)
}
