package metadata

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// world drives a Committer over memory disks with a seeded scheduler, and
// knows which tables a load may find at any moment.
type world struct {
	t     testing.TB
	r     *rand.Rand
	disks []*memDisk
	plan  *Layout
	c     *Committer
	live  *Table // the Source: what Results said is durable

	base []Entry // everything durable, in order, since the beginning
	pend []modelTx
	// unknown are the records of unknown outcome that are not yet void, each
	// with its transactions. Any one of them may be there, never two.
	unknown [][]modelTx
	fresh   bool // the next unknown transaction begins another record
	flight  map[OpID]Op
	order   []OpID
	time    uint32
	fail    func(Op) bool
	away    func(Op) error // the path to the disk, if not nil: why an Op does not get there
	opened  bool
	opening Ticket
	stats   struct{ durable, unknown, dropped, cuts, checkpoints, stale int }
}

type modelTx struct {
	ticket  Ticket
	entries []Entry
	resume  bool
}

func newWorld(t testing.TB, r *rand.Rand, p PlanParams) *world {
	p.Name = "w"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, r, plan)
	w.start()
	return w
}

// newWorldOf creates a set, and does not start it.
func newWorldOf(t testing.TB, r *rand.Rand, plan *Layout) *world {
	w := &world{t: t, r: r, plan: plan}
	for _, d := range w.plan.Devices() {
		w.disks = append(w.disks, newMemDisk(d.Size))
	}
	w.base = w.tx(20)
	if err := Create(devices(w.disks), w.plan, w.base); err != nil {
		t.Fatal(err)
	}
	return w
}

// tx makes n random entries. Unit u only ever uses spare units u and u+N, so
// any order and any subset of transactions gives a valid table.
func (w *world) tx(n int) []Entry {
	const units = 100
	out := make([]Entry, n)
	for i := range out {
		w.time++
		e := Entry{Time: w.time, Cause: Cause(w.r.IntN(9))}
		mask := w.plan.lim.mask
		e.Unit, e.Count = uint64(w.r.IntN(units-8)), 1+uint32(w.r.IntN(8))
		e.Mask = uint8(w.r.IntN(256)) & mask
		if e.Mask == 0 {
			e.Mask = mask
		}
		switch k := w.r.IntN(10); {
		case k < 5:
			e.State, e.Spare = StateMapped, uint32(e.Unit)+units*uint32(w.r.IntN(2))
		case k < 6:
			e.State = StateHome
		case k < 7:
			e.State = StateLost
		case k < 8:
			e.State = StatePending
		default:
			e = Entry{Time: e.Time, Cause: e.Cause, Spare: 2*units + uint32(w.r.IntN(20)),
				Count: 1 + uint32(w.r.IntN(3)), State: StateRetired + State(w.r.IntN(3))}
		}
		out[i] = e
	}
	return out
}

func (w *world) table(entries ...[]Entry) *Table {
	t := NewTable(w.plan)
	for _, es := range entries {
		for _, e := range es {
			w.apply(t, e)
		}
	}
	return t
}

func (w *world) apply(t *Table, e Entry) {
	if err := t.Apply(e); err != nil {
		w.t.Fatal(err)
	}
}

func listed(t *Table) []Entry {
	buf := make([]Entry, 64)
	var out []Entry
	for cursor, done := uint64(0), false; !done; {
		var n int
		n, cursor, done = t.Entries(cursor, buf)
		out = append(out, buf[:n]...)
	}
	return out
}

// start loads and opens.
func (w *world) start() {
	img, err := Load(devices(w.disks))
	if err != nil {
		w.t.Fatal("load:", err)
	}
	if w.live, err = img.Table(); err != nil {
		w.t.Fatal("table:", err)
	}
	w.c, err = NewCommitter(img, w.live, Options{Session: w.r.Uint64(),
		CheckpointChunk: PageSize * (1 + w.r.IntN(4))})
	if err != nil {
		w.t.Fatal(err)
	}
	w.flight, w.order, w.pend, w.unknown, w.opened = map[OpID]Op{}, nil, nil, nil, false
	w.open()
}

func (w *world) open() {
	var err error
	if w.opening, err = w.c.Open(w.time); err != nil {
		w.t.Fatal(err)
	}
}

// results takes the results and moves the model along.
func (w *world) results() {
	for _, r := range w.c.Results() {
		if r.Ticket == w.opening {
			w.opened = r.Outcome == OutcomeDurable
			if !w.opened {
				w.opening = 0
			}
			continue
		}
		if len(w.pend) == 0 || w.pend[0].ticket != r.Ticket {
			w.stats.checkpoints++ // a checkpoint's
			continue
		}
		tx := w.pend[0]
		w.pend = w.pend[1:]
		switch r.Outcome {
		case OutcomeDurable:
			w.stats.durable++
			if w.base = append(w.base, tx.entries...); len(w.base) > 500 {
				w.base = listed(w.table(w.base))
			}
			w.unknown, w.fresh = nil, true
			for _, e := range tx.entries {
				if err := w.live.Apply(e); err != nil {
					w.t.Fatal(err)
				}
			}
		case OutcomeUnknown:
			w.stats.unknown++
			if w.fresh || len(w.unknown) == 0 {
				w.unknown = append(w.unknown, nil)
			}
			w.fresh = false
			last := &w.unknown[len(w.unknown)-1]
			*last = append(*last, tx)
		case OutcomeDropped:
			w.stats.dropped++
		}
	}
}

func (w *world) take() {
	for _, op := range w.c.Ops() {
		w.flight[op.ID] = op
		w.order = append(w.order, op.ID)
	}
}

// finish ends one of the writes under way.
func (w *world) finish() {
	i := w.r.IntN(len(w.order))
	id := w.order[i]
	w.order = append(w.order[:i], w.order[i+1:]...)
	op := w.flight[id]
	delete(w.flight, id)
	if w.away != nil {
		if err := w.away(op); err != nil {
			// A write may have landed anyway, in part.
			if !op.Read && w.r.IntN(3) == 0 && !w.superblock(op) {
				w.disks[op.Device].tear(memWrite{op.Offset, append([]byte(nil), op.Data...)}, w.r)
			}
			w.c.Done(id, err)
			return
		}
	}
	if op.Read {
		_, err := w.disks[op.Device].ReadAt(op.Data, op.Offset)
		w.c.Done(id, err)
		return
	}
	wr := memWrite{op.Offset, append([]byte(nil), op.Data...)}
	if w.fail != nil && w.fail(op) {
		if w.superblock(op) {
			// A sector may be lost if its rewrite fails. But the copies of the superblock are not
			// all lost one after the other. So a failed write of one changes all of it or nothing.
			if w.r.IntN(2) == 0 {
				w.disks[op.Device].store(wr, nil)
			}
		} else {
			w.disks[op.Device].tear(wr, w.r)
		}
		w.c.Done(id, errMedium)
		return
	}
	w.disks[op.Device].store(wr, nil)
	w.c.Done(id, nil)
}

func (w *world) superblock(op Op) bool {
	return slices.ContainsFunc(w.c.sb.places, func(p copyState) bool {
		return p.device == op.Device &&
			p.offset == op.Offset
	})
}

// step does one random thing.
func (w *world) step() {
	switch k := w.r.IntN(12); {
	case k < 2:
		w.results()
	case k < 5:
		w.take()
	case k < 9:
		if len(w.order) > 0 {
			w.finish()
		}
	case k < 11:
		w.commit()
	default:
		if w.opened && w.r.IntN(20) == 0 {
			if _, err := w.c.Checkpoint(); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func (w *world) commit() {
	if w.opening == 0 {
		w.open()
		return
	}
	if !w.opened {
		return
	}
	n := 1 + w.r.IntN(4)
	if w.r.IntN(10) == 0 {
		n = MaxEntries - w.r.IntN(3)
	}
	es := w.tx(n)
	t, err := w.c.Commit(es)
	if err == nil {
		w.pend = append(w.pend, modelTx{t, es, false})
		return
	}
	w.results()
	// The newest unknown record restates those before it, so it is enough.
	var re []Entry
	if n := len(w.unknown); n > 0 {
		for _, tx := range w.unknown[n-1] {
			for _, e := range tx.entries {
				w.time++
				e.Time = w.time
				if !e.State.OfSpare() {
					e.State, e.Spare = StateLost, 0
				} else {
					e.State = StateQuarantined
				}
				re = append(re, e)
			}
		}
	}
	if t, err = w.c.Resume(re); err != nil {
		w.t.Fatal(err)
	}
	w.fresh = true
	w.pend = append(w.pend, modelTx{t, re, true})
}

// commits makes n commits, one after the other.
func (w *world) commits(n int) {
	for range n {
		w.commit()
		w.settle()
	}
}

// stepAndCut does one random thing, the ith. From time to time it looks at what a power cut would
// leave, and rarely it cuts the power.
func (w *world) stepAndCut(i int) {
	w.step()
	if i%7 == 0 {
		w.find(w.cut(), "cut")
		w.findAlone()
	}
	if i%19 == 0 {
		w.findLatent()
	}
	if w.r.IntN(400) == 0 {
		w.power()
	}
}

// allowed calls f with each of the tables that a load may find after a cut
// now, until f returns true.
func (w *world) allowed(f func([]Entry) bool) bool {
	t := w.table(w.base)
	if f(listed(t)) {
		return true
	}
	// Transactions that are not reported yet may be there: whole ones, in order.
	for _, tx := range w.pend {
		for _, e := range tx.entries {
			w.apply(t, e)
		}
		if f(listed(t)) {
			return true
		}
	}
	for _, rec := range w.unknown {
		t := w.table(w.base)
		for _, tx := range rec {
			for _, e := range tx.entries {
				w.apply(t, e)
			}
			if f(listed(t)) {
				return true
			}
		}
	}
	return false
}

// find loads disks and fails the test unless the table is one that is
// allowed, which it returns.
func (w *world) find(disks []*memDisk, what string) []Entry {
	w.t.Helper()
	img, err := Load(devices(disks))
	if err != nil {
		w.t.Fatalf("%s: load: %v\n%+v", what, err, w.c.Status())
	}
	got, err := img.Table()
	if err != nil {
		w.t.Fatalf("%s: table: %v", what, err)
	}
	have := listed(got)
	if w.allowed(func(a []Entry) bool { return slices.Equal(a, have) }) {
		return have
	}
	w.t.Fatalf("%s: found position %s, and a table that is none of those it may be: %s\n%+v", what,
		img.Position(),
		diff(listed(w.table(w.base)), have), w.c.Status())
	return nil
}

// diff says in short how two tables differ.
func diff(want, have []Entry) string {
	var b strings.Builder
	for _, e := range want {
		if !slices.Contains(have, e) && b.Len() < 1000 {
			fmt.Fprintf(&b, "\n- %+v", e)
		}
	}
	for _, e := range have {
		if !slices.Contains(want, e) && b.Len() < 2000 {
			fmt.Fprintf(&b, "\n+ %+v", e)
		}
	}
	return b.String()
}

// findAlone cuts the power and loses all mirrors but one that is called good.
func (w *world) findAlone() {
	w.t.Helper()
	i := w.r.IntN(len(w.c.mirrors))
	if m := &w.c.mirrors[i]; !w.opened || m.state != MirrorGood || w.c.sb.uncertain ||
		w.c.sb.active() {
		return
	}
	disks := w.cut()
	for j := range w.c.mirrors {
		if m := &w.c.mirrors[j]; j != i {
			wipe(disks[m.device], m)
		}
	}
	w.find(disks, fmt.Sprint("only mirror ", i))
}

// cut makes the disks as a power cut leaves them now.
func (w *world) cut() []*memDisk {
	w.stats.cuts++
	out := make([]*memDisk, len(w.disks))
	for i, d := range w.disks {
		out[i] = d.cut(w.r)
	}
	for _, id := range w.order {
		op := w.flight[id]
		if op.Read {
			continue
		}
		out[op.Device].tear(memWrite{op.Offset, op.Data}, w.r)
	}
	return out
}

// eachCut calls f with every state in which a cut may leave the disks now: each write under way is
// lost, done, or done in its first or last half. most limits how many of the combinations are
// tried, if it is not 0; n counts them.
func (w *world) eachCut(most int, n *int, f func(disks []*memDisk, what string)) {
	combos, step := 1, 1
	for range w.order {
		combos *= 4
	}
	if most > 0 && combos > most {
		step = 1 + w.r.IntN(combos*2/most)
	}
	for combo := 0; combo < combos; combo += step {
		*n++
		if !sampled(*n, 5) {
			continue
		}
		disks := clones(w.disks)
		for i, id := range w.order {
			op := w.flight[id]
			if op.Read {
				continue
			}
			half := len(op.Data) / sector / 2
			fate := combo >> (2 * i) & 3
			disks[op.Device].store(memWrite{op.Offset, op.Data},
				func(s int) bool {
					return fate == 1 || fate == 2 && s < half || fate == 3 &&
						s >= half
				})
		}
		f(disks, fmt.Sprintf("cut %d, combination %#x", *n, combo))
	}
}

// drain lets everything end, and calls try before and after each step of it.
func (w *world) drain(try func()) {
	for idle := false; !idle; {
		w.take()
		try()
		if idle = len(w.order) == 0; !idle {
			w.finish()
			try()
		}
		w.results()
	}
}

// settle lets everything end.
func (w *world) settle() {
	for i := 0; ; i++ {
		w.results()
		w.take()
		if len(w.order) == 0 && w.c.Idle() {
			return
		}
		if len(w.order) == 0 && i > 100000 {
			w.t.Fatalf("not idle, and nothing to do: %+v", w.c.Status())
		}
		if len(w.order) > 0 {
			w.finish()
		}
	}
}

// power cuts the power for good and starts again. The table that was found counts as durable from
// now on.
func (w *world) power() {
	disks := w.cut()
	w.base = w.find(disks, "power")
	w.disks = disks
	w.start()
}

// check ends every test of this file: the set must be in order and, unless it is degraded, there
// must be nothing to remark.
func (w *world) check(worst Severity) {
	w.t.Helper()
	r, err := Check(devices(w.disks))
	rank := map[Severity]int{"": 0, SeverityInfo: 1, SeverityWarning: 2, SeverityError: 3}
	if err != nil || rank[r.Worst()] > rank[worst] {
		w.t.Errorf("check: %v\n%s", err, r.String())
	}
}

func smallParams(blockSize, physical int) PlanParams {
	return PlanParams{BackingSize: 16 << 20, BlockSize: blockSize, PhysicalBlockSize: physical,
		SpareBytes: 1 << 20}
}

func pairParams(blockSize int) PlanParams {
	return PlanParams{BackingSize: 16 << 20, BlockSize: blockSize, SpareBytes: 1 << 20,
		SpareDeviceSize: 8 << 20}
}

var worlds = []struct {
	name string
	p    PlanParams
}{
	{"alone-512", smallParams(512, 0)},
	{"alone-4096", smallParams(4096, 4096)},
	{"alone-512-16k", smallParams(512, 16384)},
	{"pair-512", pairParams(512)},
	{"pair-4096", pairParams(4096)},
}

// seeds is n, or as many as METADATA_SEEDS says.
func seeds(n uint64) uint64 {
	if more, err := strconv.ParseUint(os.Getenv("METADATA_SEEDS"), 10, 32); err == nil {
		return more
	}
	if raceDetector {
		return 1
	}
	return n
}

// sampled reports whether a test of many cases takes the nth of them. With the race detector, which
// finds nothing here and is slow, a test takes one in k. Without it, and in the full run, a test
// takes all.
func sampled(n, k int) bool { return !raceDetector || full() || n%k == 0 }

// steps is n, or fewer under the race detector.
func steps(n int) int {
	if raceDetector {
		return n / 3
	}
	return n
}

// TestCuts cuts the power at random moments of a healthy set, looks at what
// each would leave, and now and then goes on from there.
func TestCuts(t *testing.T) {
	for _, tc := range worlds {
		for seed := range seeds(3) {
			t.Run(fmt.Sprintf("%s/%d", tc.name, seed), func(t *testing.T) {
				w := newWorld(t, seeded(t, seed), tc.p)
				for i := range steps(2000) {
					w.stepAndCut(i)
				}
				w.settle()
				w.find(w.disks, "end")
				w.check(SeverityInfo)
				if w.stats.unknown+w.stats.dropped > 0 || w.stats.durable < steps(30) {
					t.Fatalf("%+v", w.stats)
				}
				for _, m := range w.c.Status().Mirrors {
					if m.State != MirrorGood {
						t.Errorf("%+v", m)
					}
				}
			})
		}
	}
}

// TestFaultsAndCuts adds writes that fail: single ones, and whole mirrors for
// a while.
func TestFaultsAndCuts(t *testing.T) {
	var sum struct{ durable, unknown, dropped, stale, healed int }
	for _, tc := range worlds {
		for seed := range seeds(4) {
			t.Run(fmt.Sprintf("%s/%d", tc.name, seed), func(t *testing.T) {
				w := newWorld(t, seeded(t, seed), tc.p)
				dead := map[int]bool{}
				rate := []int{0, 3, 30}[w.r.IntN(3)]
				w.fail = func(op Op) bool {
					for i := range w.c.mirrors {
						m := &w.c.mirrors[i]
						if m.device == op.Device && op.Offset >= m.start && op.Offset < m.start+
							2*m.slot+w.plan.sb.LogBytes {
							return dead[i] || w.r.IntN(100) < rate
						}
					}
					return dead[-1] || w.r.IntN(100) < rate
				}
				for i := range steps(2000) {
					if w.r.IntN(100) == 0 {
						k := w.r.IntN(len(w.c.mirrors)+1) - 1
						dead[k] = !dead[k] && w.r.IntN(2) == 0
					}
					w.stepAndCut(i)
				}
				for _, m := range w.c.Status().Mirrors {
					if m.State == MirrorStale {
						sum.stale++
					}
				}
				// The disks work again: everything must come back.
				w.fail = nil
				w.settle()
				w.power() // or the back-off may take longer than the test
				w.settle()
				w.commits(400)
				if _, err := w.c.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				w.settle()
				w.find(w.disks, "end")
				w.check(SeverityInfo)
				for _, m := range w.c.Status().Mirrors {
					if m.State != MirrorGood {
						t.Errorf("%+v", m)
					}
				}
				sum.durable += w.stats.durable
				sum.unknown += w.stats.unknown
				sum.dropped += w.stats.dropped
			})
		}
	}
	if !raceDetector && (sum.unknown == 0 || sum.dropped == 0 || sum.stale == 0) {
		t.Errorf("the faults never bit: %+v", sum)
	}
	t.Logf("%+v", sum)
}
