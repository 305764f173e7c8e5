package sim

import (
	"errors"
	"slices"

	"ublkremap/metadata"
)

// committer stands between the Coordinator and the Committer. It judges what the Arbiter commits,
// and what becomes of it. Bugs in the exchange between the two are planted here.
type committer struct {
	*metadata.Committer
	sv      *server
	commits map[metadata.Ticket]int64 // the Arbiter's commits that are under way, and their step
	held    []metadata.Result         // of bugs only
	noRoom  bool                      // it said so since noteTable: Growth
}

// Commit takes what the Arbiter wants to be durable.
func (c *committer) Commit(entries []metadata.Entry) (metadata.Ticket, error) {
	sv, s := c.sv, c.sv.s
	sv.judgeEntries(entries)
	t, err := c.Committer.Commit(s.opts.Bug.commits(sv, entries))
	if s.tracing() {
		s.tracef("    commit %d %v: %+v", t, err, entries)
	}
	if err != nil && !errors.Is(err, metadata.ErrSuspended) {
		s.failf("commit refused: %v: %+v", err, entries)
	}
	if err != nil {
		sv.everUnknown = true
		return t, err
	}
	c.commits[t] = s.step
	return t, nil
}

// Resume takes what the Arbiter states again after commits of unknown outcome.
func (c *committer) Resume(restate []metadata.Entry) (metadata.Ticket, error) {
	t, err := c.Committer.Resume(c.sv.s.opts.Bug.restates(restate))
	c.sv.s.tracef("    resume %d %v: %+v", t, err, restate)
	if err == nil {
		c.commits[t] = c.sv.s.step
	}
	return t, err
}

// Idle reports that the Committer has nothing under way.
func (c *committer) Idle() bool {
	return c.Committer.Idle() || c.sv.s.opts.Bug == BugEarlyLeave && c.sv.queuesEnded
}

// Results passes on what became of tickets.
func (c *committer) Results() []metadata.Result {
	results := c.sv.s.opts.Bug.results(c, c.Committer.Results())
	for i := range results {
		results[i] = c.judge(results[i])
	}
	return results
}

// judge takes the outcome of a ticket, as it is passed on.
func (c *committer) judge(r metadata.Result) metadata.Result {
	sv, s := c.sv, c.sv.s
	began, commit := c.commits[r.Ticket]
	delete(c.commits, r.Ticket)
	if commit && s.opts.Bug == BugUnknownDurable && r.Outcome == metadata.OutcomeUnknown {
		r.Outcome = metadata.OutcomeDurable
	}
	durable := r.Outcome == metadata.OutcomeDurable
	if s.tracing() {
		s.tracef("    ticket %d: durable %v", r.Ticket, durable)
	}
	switch {
	case !commit:
	case !durable:
		s.stats.Unknown++
		sv.unknown, sv.everUnknown = true, true
		// While one operation takes seconds to fail, no other one is tried again. So the time for
		// resources can run out after few tries.
		patient := s.slowest < int64(s.cfg.policy.ResourceFor) &&
			(!s.cfg.shortages || s.cfg.policy.ResourceFor > shortageFor)
		// The clock may jump far between two tries. If an operation was given up since the commit
		// was asked for, because its time had run out, the breaker must open: no mirror has taken
		// the record, or the only one that is not being rebuilt has not. Nothing is lost by that.
		// The entries of the commit stay unknown, and are committed again when the breaker closes.
		patient = patient && sv.ranOut < began
		if !s.cfg.vanish && patient && s.cfg.rates.path == 0 && s.cfg.rates.flush == 0 &&
			s.cfg.meta == metaNone {
			s.failf("a commit of unknown outcome, and nothing is wrong with the metadata")
		}
	case s.disks[0].missing != 0 && s.missingStep > 0 && began > s.missingStep:
		s.failf("a commit became durable while the backing was missing: spare units are used up")
	}
	return r
}

// later keeps results, to hand them out with another event.
func (c *committer) later(results []metadata.Result) {
	kept := slices.Clone(results)
	c.sv.s.later(classJournal, func() {
		c.held = append(c.held, kept...)
		c.sv.coord.Step()
	})
}

// due returns results that were kept.
func (c *committer) due() []metadata.Result {
	results := c.held
	c.held = nil
	return results
}

// Growth says how far the mirrors are with larger slots. It may be another answer a moment later: a
// superblock that is written meanwhile can end a reason to wait.
func (c *committer) Growth() metadata.Growth {
	g := c.Committer.Growth()
	c.noRoom = c.noRoom || g == metadata.GrowthNoRoom || g == metadata.GrowthWaits
	return g
}

// TableCapacity is how many entries the table may have.
func (c *committer) TableCapacity() uint64 {
	n := c.Committer.TableCapacity()
	if c.sv.s.opts.Bug == BugEarlyCapacity && c.Growth() == metadata.GrowthUnderWay {
		n *= 2
	}
	return n
}
