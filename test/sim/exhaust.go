package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"ublkremap/metadata"
)

// This file cuts the power, or kills the server, at every single write of a scenario, each in
// several ways. Then the next server recovers. The power is cut again at every write of that
// recovery. Each interruption happens in a fork. The scenario itself continues undisturbed to its
// end, so it runs once for all cuts.

// end is a way in which a scenario is interrupted.
type end uint8

const (
	endNone  end = iota // power cut: only what was durable survives
	endAll              // power cut: everything survives
	endSome             // power cut: any of it; sectors tear
	endOther            // the same, drawn once more
	endKill             // SIGKILL
	ends
)

// Exhausting says how thoroughly a scenario is interrupted.
type Exhausting struct {
	// Again says that one of so many cuts in the recovery is made; 1: all of them.
	Again int
	// Sparse says that one of so many writes of the scenario is cut; 1: all of them.
	Sparse int
	// Only, if not empty, is the one path of interruptions to follow, in the form in which a
	// failure prints it.
	Only string
	// Trace gets the steps of the run that Only leads to.
	Trace func(line string)
}

// Exhausted is what was gone through.
type Exhausted struct {
	Stats
	Stories uint64
	Writes  uint64 // of the scenarios
	First   uint64 // interruptions of scenarios
	Second  uint64 // interruptions of recoveries
}

// Add adds what another scenario went through.
func (e *Exhausted) Add(o *Exhausted) {
	e.Stats.Add(&o.Stats)
	e.Stories, e.Writes, e.First, e.Second = e.Stories+o.Stories, e.Writes+o.Writes,
		e.First+o.First, e.Second+o.Second
}

func (e *Exhausted) String() string {
	return fmt.Sprintf("%s stories of %s writes, interrupted %s times; recoveries interrupted %s "+
		"times; %s starts, %s of data compared in reads, %s after loads",
		count(e.Stories), count(e.Writes), count(e.First), count(e.Second), count(e.Starts),
		size(e.Read), size(e.Inspected))
}

// exhaust is one scenario that is being interrupted.
type exhaust struct {
	how  Exhausting
	out  Exhausted
	path []string
	// settle brings a fork, after an interruption, to a state in which everything can be judged.
	settle func(f *sim)
}

// Exhaust runs a scenario with a seed's order of events and interrupts it at every write.
func Exhaust(sc *Scenario, layout string, seed uint64, bug Bug, how Exhausting) (Exhausted, error) {
	x := &exhaust{how: how, settle: (*sim).recovered}
	s := newScenario(seed, sc, layout, Options{Bug: bug})
	return x.run(s, func() { sc.play(s) })
}

// ExhaustCreate interrupts the creation of a set at every write, over nothing or over an
// older set.
func ExhaustCreate(layout string, older bool, seed uint64, how Exhausting) (Exhausted, error) {
	s := newScenario(seed, nil, layout, Options{})
	initial := []metadata.Entry{{Unit: 3, Count: 2, Mask: 1, State: metadata.StatePending,
		Cause: metadata.CauseImport, Time: 1}}
	var old metadata.Superblock
	x := &exhaust{how: how}
	x.settle = func(f *sim) {
		img, err := metadata.Load(f.devices())
		if err == nil {
			if _, err := img.Table(); err != nil {
				f.failf("a set that a cut create left: %v", err)
			}
			id, own := img.Layout().Superblock().UUID, f.plan.Superblock().UUID
			id[1], own[1] = 0, 0 // which try it was
			if was := old.UUID; id != own && (!older || id[0] != was[0]) {
				f.failf("a set that nobody made: %v", id)
			}
		} else if !errors.Is(err, metadata.ErrNotFound) {
			f.failf("load after a cut create: %v", err)
		}
		// A set that is created again gets another name.
		f.cfg.plan.UUID[1]++
		if f.plan, err = metadata.Plan(f.cfg.plan); err != nil {
			f.failf("plan: %v", err)
		}
		f.createHere(initial)
		f.recovered()
	}
	return x.run(s, func() {
		if older {
			p := s.cfg.plan
			p.UUID[0] ^= 0xff
			plan, err := metadata.Plan(p)
			if err != nil {
				s.failf("plan: %v", err)
			}
			old = plan.Superblock()
			if err := metadata.Create(devicesOf(s.disks), plan, nil); err != nil {
				s.failf("create: %v", err)
			}
		}
		s.createHere(initial)
	})
}

// createHere creates the set; its writes can be interrupted.
func (s *sim) createHere(initial []metadata.Entry) {
	devs := make([]metadata.Device, len(s.disks))
	for i, d := range s.disks {
		devs[i] = offline{d: d, before: func() {
			s.writes++
			if s.atWrite != nil {
				s.atWrite()
			}
		}}
	}
	if err := metadata.Create(devs, s.plan, initial); err != nil {
		s.failf("create: %v", err)
	}
}

func (x *exhaust) run(s *sim, story func()) (Exhausted, error) {
	x.out.Stories++
	s.atWrite = func() { x.interrupt(s) }
	err := s.guard(func() {
		story()
		x.interrupt(s)
	})
	x.out.Writes = uint64(s.writes)
	x.out.Stats.Add(&s.stats)
	if err != nil && len(x.path) > 0 {
		err = fmt.Errorf("interrupted at %s: %w", strings.Join(x.path, ","), err)
	}
	return x.out, err
}

// interrupt ends the scenario in every way, in forks of it.
func (x *exhaust) interrupt(s *sim) {
	again := len(x.path) > 0
	if !again && x.how.Sparse > 1 && s.writes%x.how.Sparse != 0 {
		return
	}
	for how := range ends {
		step := fmt.Sprintf("%d.%d", s.writes, how)
		only := strings.Split(x.how.Only, ",")
		if x.how.Only != "" && (len(x.path) >= len(only) || only[len(x.path)] != step) {
			continue
		}
		// What the fork draws depends on its path alone, so that it can be followed again. Whether
		// a recovery is interrupted does not depend on what else is interrupted.
		stream := xxhash.Sum64String(strings.Join(append(slices.Clone(x.path), step), ","))
		if again && x.how.Only == "" && (how == endOther || stream>>8%uint64(x.how.Again) != 0) {
			continue
		}
		f := s.fork(stream)
		if x.how.Only != "" && slices.Equal(append(slices.Clone(x.path), step), only) {
			f.opts.Trace = x.how.Trace
		}
		x.path = append(x.path, step)
		if again {
			x.out.Second++
		} else {
			x.out.First++
		}
		f.interrupted(how)
		f.writes = 0
		if !again {
			f.atWrite = func() { x.interrupt(f) }
		}
		x.settle(f)
		x.out.Stats.Add(&f.stats)
		x.path = x.path[:len(x.path)-1]
	}
}

// interrupted interrupts a run.
func (s *sim) interrupted(how end) {
	switch how {
	case endNone:
		s.cut(surviveNone)
	case endAll:
		s.cut(surviveAll)
	case endKill:
		s.kill()
	default:
		s.cut(surviveSome)
	}
}

// recovered starts a server and makes sure that everything is as it must be.
func (s *sim) recovered() {
	s.refuseMetadata(false)
	s.start()
	s.verifyAll()
	s.quiet()
	s.down()
	s.check()
}
