package sim

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Shrunk is the smallest failing run that Shrink has found.
type Shrunk struct {
	Set     Setting
	Err     error
	Runs    int // that it took
	Actions int // of users, operators and the environment; before: Before
	Before  int
}

// shrinker makes a failing run smaller, step by step, as long as it fails.
type shrinker struct {
	seed  uint64
	opts  Options
	limit int
	best  Shrunk
	last  *sim // the run of best
	kind  string
}

// Shrink looks for a smaller run that fails, as the run of seed with opts does: with fewer rounds,
// steps, queues and faults, and with as few actions as possible of users, operators and the
// environment. It makes up to limit runs. The run that it finds may break another promise than the
// first run. But it hangs or panics only if the first run does. A run that does not fail has no
// smaller one: Err is nil.
func Shrink(seed uint64, opts Options, limit int) Shrunk {
	x := &shrinker{seed: seed, opts: opts, limit: limit}
	x.opts.Trace = nil
	s, err := x.run(opts.Set)
	if err == nil {
		return Shrunk{Set: opts.Set, Runs: 1}
	}
	x.kind = kindOf(err)
	x.best = Shrunk{Set: opts.Set, Err: err, Before: len(s.actions), Actions: len(s.actions)}
	x.last = s
	for {
		before := x.best.Set.String()
		x.numbers()
		x.actions()
		if x.best.Set.String() == before || x.limit <= 0 {
			break
		}
	}
	x.best.Runs = limit - x.limit
	return x.best
}

func kindOf(err error) string {
	for _, kind := range []string{"hang", "never end", "panic:"} {
		if strings.Contains(err.Error(), kind) {
			return kind
		}
	}
	return ""
}

func (x *shrinker) run(set Setting) (*sim, error) {
	x.limit--
	opts := x.opts
	opts.Set = set
	s := newSim(x.seed, opts)
	return s, s.guard(s.run)
}

// try keeps a setting if the run still fails.
func (x *shrinker) try(set Setting) bool {
	if x.limit <= 0 {
		return false
	}
	s, err := x.run(set)
	if err == nil || kindOf(err) != x.kind {
		return false
	}
	x.best.Set, x.best.Err, x.best.Actions, x.last = set, err, len(s.actions), s
	return true
}

// numbers lowers the numbers of the configuration, and turns off what can be turned off.
func (x *shrinker) numbers() {
	for _, name := range slices.Sorted(maps.Keys(switches)) {
		if _, done := x.best.Set.values[name]; !done {
			x.try(x.best.Set.with(name, 0))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(knobs)) {
		least := 1
		if strings.Contains("faults path busy short flush", name) {
			least = 0
		}
		for {
			now := *knobs[name](&x.last.cfg)
			smaller := false
			for _, n := range slices.Compact([]int{least, (least + now) / 2, (least + 3*now) / 4,
				now - 1}) {
				if n >= least && n < now && x.try(x.best.Set.with(name, n)) {
					smaller = true
					break
				}
			}
			if !smaller {
				break
			}
		}
	}
}

// actions leaves out what users, operators and the environment do, in ever smaller pieces: Zeller
// and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
func (x *shrinker) actions() {
	list := slices.Clone(x.last.actions)
	slices.Sort(list)
	list = slices.Compact(list)
	for parts := 2; len(list) > 0 && x.limit > 0; {
		smaller := false
		size := (len(list) + parts - 1) / parts
		for at := 0; at < len(list); at += size {
			rest := append([]int{}, list[:at]...) // nil would be everything
			rest = append(rest, list[min(at+size, len(list)):]...)
			if x.without(rest) {
				list, smaller = rest, true
				break
			}
		}
		switch {
		case smaller:
			parts = max(2, cmp.Compare(parts, 2)*(parts-1))
		case parts >= len(list):
			return
		default:
			parts = min(len(list), 2*parts)
		}
	}
}

// without tries to omit actions. A failure that depends on chance occurs less often with fewer
// actions. So other orders of events are tried too.
func (x *shrinker) without(rest []int) bool {
	set := x.best.Set
	set.keep = rest
	if x.try(set) {
		return true
	}
	for order := range 3 {
		if x.try(set.with("order", order)) {
			return true
		}
	}
	return false
}
