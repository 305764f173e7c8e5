package top

import (
	"slices"
	"sort"
	"time"

	"ublkremap/internal/attention"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/recorder"
)

const (
	samples   = 60  // of the history of rates
	maxEvents = 200 // that are kept
	// lateAfter is after what time without an answer a device counts as one that does not answer.
	lateAfter = 3 * time.Second
)

// device is what is known of a device.
type device struct {
	st       *control.Status
	final    bool      // there is no server to ask
	asked    time.Time // when the open question was asked; zero: there is none
	answered time.Time // the last answer; zero: there was none
	history  []rates   // the last moments, oldest first

	surface        *control.Surface
	surfaceOf      surfaceKey // of what the surface is
	surfaceAsked   bool
	surfaceAt      time.Time
	surfaceErr     error
	slow           []control.Range
	events         []Event
	place          recorder.Place // the newest event
	eventsAsked    bool
	eventsErr      error
	slowAsked      bool
	slowAt         time.Time
	from, per, cur uint64 // the part of the map that is shown, blocks of a cell, the cursor
	// When the map was enlarged around something bad, the cursor goes to that as soon as it is
	// known where in these blocks it is. aimEnd 0: there is no such thing.
	aim, aimEnd uint64
}

// surfaceKey says of what part a surface is, and of what state of the device.
type surfaceKey struct {
	from, per, cells                         uint64
	sequence, remaps, pending, lost, errored uint64
}

// rates are those of a moment, a second.
type rates struct{ read, write, heals, errors float64 }

// answer takes a new status in.
func (d *device) answer(st *control.Status, now time.Time) {
	old, since := d.st, now.Sub(d.answered).Seconds()
	if old != nil && !d.answered.IsZero() && since > 0 {
		rate := func(of func(*control.Status) uint64) float64 {
			was, is := of(old), of(st)
			if is < was { // another server counts from 0
				return 0
			}
			return float64(is-was) / since
		}
		d.history = append(d.history, rates{
			read:  rate(func(s *control.Status) uint64 { return s.IO.ReadBytes }),
			write: rate(func(s *control.Status) uint64 { return s.IO.WriteBytes }),
			heals: rate(func(s *control.Status) uint64 { return s.Heals.Writes + s.Heals.Reads }),
			errors: rate(func(s *control.Status) uint64 {
				return s.Errors.Read + s.Errors.Write + s.Errors.Flush + s.Errors.Transport
			}),
		})
		if n := len(d.history) - samples; n > 0 {
			d.history = d.history[n:]
		}
	}
	d.st, d.asked, d.answered = st, time.Time{}, now
}

// now returns the rates of the last moment.
func (d *device) now() rates {
	if len(d.history) == 0 {
		return rates{}
	}
	return d.history[len(d.history)-1]
}

// figures reports whether the figures of the status mean something.
func (d *device) figures() bool {
	return d.st.ServerPID != 0 && d.st.State != control.StateUnreachable && d.st.SizeBlocks > 0
}

// late returns since when a device has not answered; zero if it does.
func (d *device) late(now time.Time) time.Duration {
	if d.asked.IsZero() || now.Sub(d.asked) < lateAfter {
		return 0
	}
	return now.Sub(d.asked)
}

// state is the state in words, for the list.
func (d *device) state(now time.Time) (control.State, string) {
	if since := d.late(now); since > 0 {
		return control.StateUnreachable, "no answer"
	}
	if d.st.State == control.StateLive && d.bad(now) {
		return control.StateDegraded, "live !" // it works, and something is with it
	}
	return d.st.State, string(d.st.State)
}

// points are what is with the device.
func (d *device) points(now time.Time) attention.Points {
	st := *d.st
	if since := d.late(now); since > 0 {
		st.State, st.Action = control.StateUnreachable, ""
		st.Reason = "its server has not answered for " + readable.Duration(since) +
			"; the figures are old, and whether I/O goes on is not known"
	}
	return attention.Of(&st)
}

// bad reports whether the device needs attention.
func (d *device) bad(now time.Time) bool { return len(d.points(now)) > 0 }

// addEvents takes the newest events in. Only the last ones are shown.
func (d *device) addEvents(m *eventsMsg) {
	if m.anew {
		d.events = nil
	}
	d.events = append(d.events, m.list...)
	if n := len(d.events) - maxEvents; n > 0 {
		d.events = slices.Clone(d.events[n:])
	}
	d.place = m.place
}

// What a cell of the map shows. Of several the one that comes first.
type kind int

const (
	kindLost kind = iota
	kindPending
	kindSlow
	kindMapped
	kindMetadata
	kindSpare
	kindDisplaced
	kindScrubbed
	kindPlain
	kindNone // there is no disk
)

// total is how many blocks the map has: the device, and what lies behind it on its disk.
func (d *device) total() uint64 {
	n := d.st.SizeBlocks
	if d.surface != nil && d.surface.BlockSize > 0 {
		for _, r := range d.surface.Regions {
			if r.Backing {
				n = max(n, uint64(r.Start+r.Length)/uint64(d.surface.BlockSize))
			}
		}
	}
	return n
}

// part sums up what is known of the blocks from a on and before b.
type part struct {
	mapped, pending, lost, slow uint64
	coarse                      bool // the counts are of more blocks than these
	regions                     []control.SurfaceRegion
	scrubbed                    bool
}

func (d *device) part(a, b uint64) (p part) {
	if s := d.surface; s != nil && s.PerCell > 0 {
		i := sort.Search(len(s.Cells), func(i int) bool {
			return s.From+(s.Cells[i].Cell+1)*s.PerCell > a
		})
		for ; i < len(s.Cells); i++ {
			c := s.Cells[i]
			start := s.From + c.Cell*s.PerCell
			if start >= b {
				break
			}
			p.mapped, p.pending, p.lost = p.mapped+c.Mapped, p.pending+c.Pending, p.lost+c.Lost
			p.coarse = p.coarse || start < a || start+s.PerCell > b
		}
		for _, r := range s.Regions {
			start := uint64(r.Start) / uint64(s.BlockSize)
			end := uint64(r.Start+r.Length-1)/uint64(s.BlockSize) + 1
			if r.Backing && start < b && a < end {
				p.regions = append(p.regions, r)
			}
		}
	}
	for _, r := range d.slow {
		if r.Block < b && a < r.Block+r.Count {
			p.slow += min(b, r.Block+r.Count) - max(a, r.Block)
		}
	}
	scrub := &d.st.Scrub
	p.scrubbed = b <= d.st.SizeBlocks && (scrub.LastFinished != nil ||
		scrub.State != "idle" && b <= scrub.Position)
	return p
}

// kind is what a cell shows of these blocks.
func (p *part) kind() kind {
	switch {
	case p.lost > 0:
		return kindLost
	case p.pending > 0:
		return kindPending
	case p.slow > 0:
		return kindSlow
	case p.mapped > 0:
		return kindMapped
	}
	k := kindPlain
	if p.scrubbed {
		k = kindScrubbed
	}
	for _, r := range p.regions {
		switch r.Kind {
		case "spare":
			k = min(k, kindSpare)
		case "displaced-head", "displaced-tail":
			k = min(k, kindDisplaced)
		default:
			k = min(k, kindMetadata)
		}
	}
	return k
}
