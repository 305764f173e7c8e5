package metadata

import (
	"fmt"
	"testing"
)

// pump calls the Committer as a server does: it takes Ops and results until there are no more
// results, and then calls again only when something has happened.
func (w *world) pump() {
	for more := true; more; {
		w.take()
		more = len(w.c.results) > 0
		w.results()
	}
}

// TestNothingWaitsForAnotherCall: while no Op is under way, no ticket is open. A server calls the
// Committer only when an Op has ended or something is asked for, so a ticket that waits for one
// more call waits for good. Commits behind a record without transactions once waited like that:
// such a record has no result, and no further call came after it.
func TestNothingWaitsForAnotherCall(t *testing.T) {
	var sum struct{ durable, stale, rebuilt int }
	for _, tc := range worlds {
		for seed := range seeds(12) {
			t.Run(fmt.Sprintf("%s/%d", tc.name, seed), func(t *testing.T) {
				w := newWorld(t, seeded(t, seed), tc.p)
				dead := make([]bool, len(w.c.mirrors))
				w.fail = func(op Op) bool {
					for i := range dead {
						if dead[i] && w.ofMirror(op, i) {
							return true
						}
					}
					return false
				}
				unflushed := w.r.IntN(2) == 0
				w.away = func(op Op) error {
					if unflushed && w.fail(op) {
						return errUnflushed
					}
					return nil
				}
				w.pump()
				// With few commits a mirror is rebuilt without a record meanwhile.
				rare := w.r.IntN(2) == 0
				for range steps(1500) {
					switch k := w.r.IntN(100); {
					case k < 4:
						i := w.r.IntN(len(dead))
						dead[i] = !dead[i] && w.r.IntN(2) == 0
					case k < 7 && w.opened:
						if _, err := w.c.Checkpoint(); err != nil {
							t.Fatal(err)
						}
					case len(w.order) > 0 && (k < 70 || rare && k < 97):
						w.finish()
					default:
						w.commit()
					}
					stale := w.staleMirrors()
					w.pump()
					sum.rebuilt += max(0, stale-w.staleMirrors())
					sum.stale += max(0, w.staleMirrors()-stale)
					if len(w.order) == 0 && (len(w.pend) > 0 || w.opening != 0 && !w.opened ||
						len(w.c.ck.asked)+len(w.c.ck.tickets) > 0) {
						t.Fatalf("nothing is under way, and %d commits wait: %+v", len(w.pend),
							w.c.Status())
					}
				}
				sum.durable += w.stats.durable
			})
		}
	}
	if !raceDetector && (sum.durable == 0 || sum.stale == 0 || sum.rebuilt == 0) {
		t.Errorf("too little happened: %+v", sum)
	}
	t.Logf("%+v", sum)
}

// staleMirrors counts the mirrors that miss records.
func (w *world) staleMirrors() (n int) {
	for i := range w.c.mirrors {
		if w.c.mirrors[i].state == MirrorStale {
			n++
		}
	}
	return n
}
