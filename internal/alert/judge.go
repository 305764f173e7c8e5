package alert

import (
	"slices"
	"strconv"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
)

// Device is what a round knows of a device.
type Device struct {
	Status *control.Status
	// Answered: the figures of Status come from its server. Else they are 0, and mean nothing.
	Answered  bool
	Latencies *control.Latencies // nil: the server did not tell
	// Verdict is the newest verdict of package health on the disk, in its words; empty: there is
	// none. Why is its first reason.
	Verdict string
	Why     string
	// Missing are the paths of its disks that are not on this host.
	Missing []string
	// Events are those of the flight recorder after the one that [Machine.LastEvent] gave, Last is
	// the last one. Without Told nothing is known of them.
	Events []Event
	Last   EventPlace
	Told   bool
}

// EventPlace is an event of the flight recorder. The number alone is not enough: after a crash
// numbers can be used again. The zero value: none.
type EventPlace struct {
	Number uint64 `json:"number"`
	Micros int64  `json:"micros"` // its time, microseconds since 1970
}

// Event is an event of the flight recorder.
type Event struct {
	Number uint64
	Time   time.Time
	What   string // the name of its kind, such as tripped
	Text   string // what was done, in words
}

// The limits of the rules, as in contrib/prometheus/ublk-remap.rules.yml.
const (
	waitsTime     = time.Minute
	spareLow      = 20 // one in so many spare units is 5 %
	spareWindow   = 48 * time.Hour
	spareHorizon  = 7 * 24 * time.Hour
	spareLeast    = 16 // units
	sampleEvery   = time.Hour
	newWindow     = 24 * time.Hour
	errorWindow   = time.Hour
	replaceWindow = time.Hour
	replaceMost   = 2
	slowWindow    = 15 * time.Minute
	slowLimit     = 1.0 // seconds
	slowPart      = 100 // one request in so many
)

func serverDead(d *Device, _ *setMemory, _ time.Time) finding {
	return at(d.Status.State == control.StateFailed, 0)
}

func noAnswer(d *Device, _ *setMemory, _ time.Time) finding {
	return at(d.Status.State == control.StateUnreachable, 0)
}

func diskMissing(d *Device, _ *setMemory, _ time.Time) finding {
	return at(len(d.Missing) > 0, uint64(len(d.Missing)))
}

func tripped(d *Device, _ *setMemory, _ time.Time) finding {
	return at(d.Status.Breaker.State == "open", 0)
}

// diskToReplace leaves out a device whose breaker is open: that says the same, and has an alert of
// its own.
func diskToReplace(d *Device, m *setMemory, _ time.Time) finding {
	if d.Verdict == "" || d.Status.Breaker.State == "open" {
		a := m.Alerts["disk-to-replace"]
		return at(a != nil && a.Gone.IsZero() && a.Closed.IsZero(), 0) // as it was
	}
	f := at(d.Verdict == "replace_now", 0)
	f.reason = d.Why
	return f
}

func diskWaits(d *Device, _ *setMemory, now time.Time) finding {
	since := d.Status.WaitingSince
	return at(since != nil && now.Sub(*since) > waitsTime, 0)
}

// spareNearlyUsedUp gets worse with each half of what is left: 5 %, 2.5 %, …, none.
func spareNearlyUsedUp(d *Device, _ *setMemory, _ time.Time) finding {
	s := d.Status.Spare
	f := finding{present: s.Total > 0 && s.Free <= s.Total/spareLow,
		value: strconv.FormatUint(s.Free, 10)}
	for limit := s.Total / spareLow; f.present && s.Free <= limit; limit /= 2 {
		if f.level++; limit == 0 {
			break
		}
	}
	return f
}

func blocksLost(d *Device, _ *setMemory, _ time.Time) finding {
	return at(d.Status.Lost > 0, d.Status.Lost)
}

func blocksPending(d *Device, _ *setMemory, _ time.Time) finding {
	return at(d.Status.Pending > 0, d.Status.Pending)
}

func metadataDegraded(d *Device, _ *setMemory, _ time.Time) finding {
	bad := d.Status.Metadata.BadSuperblocks
	for _, m := range d.Status.Metadata.Mirrors {
		if m.State != "good" {
			bad++
		}
	}
	return at(bad > 0, uint64(bad))
}

func tableNearlyFull(d *Device, _ *setMemory, _ time.Time) finding {
	t := d.Status.Table
	return at(t != nil && t.Max > 0 && t.Entries > t.Max-t.Max/10, 0)
}

// tally remembers the rises of a figure, for as long as they count.
type tally struct {
	Last  uint64 `json:"last"`
	Rises []rise `json:"rises,omitempty"`
	// Total is the sum of all rises ever: it never falls, so a rise can be told once.
	Total uint64 `json:"total"`
}

type rise struct {
	At time.Time `json:"at"`
	By uint64    `json:"by"`
}

// maxRises bounds what is remembered. More rises than that are put together.
const maxRises = 48

// see takes a figure. A counter begins anew at 0 when its server does, so all of it is a rise then;
// another figure can fall.
func (t *tally) see(n uint64, counter bool, now time.Time, window time.Duration) finding {
	by := uint64(0)
	switch {
	case n > t.Last:
		by = n - t.Last
	case n < t.Last && counter:
		by = n
	}
	t.Last = n
	if by > 0 {
		t.Total += by
		if last := len(t.Rises) - 1; last >= 0 && now.Sub(t.Rises[last].At) < window/maxRises {
			t.Rises[last].By += by
		} else {
			t.Rises = append(t.Rises, rise{now, by})
		}
	}
	t.Rises = slices.DeleteFunc(t.Rises, func(r rise) bool { return now.Sub(r.At) > window })
	sum := uint64(0)
	for _, r := range t.Rises {
		sum += r.By
	}
	f := at(sum > 0, sum)
	f.level = t.Total
	return f
}

func flushFailed(d *Device, m *setMemory, now time.Time) finding {
	return m.Flushes.see(d.Status.Errors.Flush, true, now, errorWindow)
}

func transportErrors(d *Device, m *setMemory, now time.Time) finding {
	return m.Transport.see(d.Status.Errors.Transport, true, now, errorWindow)
}

func newBadBlocks(d *Device, m *setMemory, now time.Time) finding {
	return m.Remaps.see(d.Status.Remaps, false, now, newWindow)
}

// sample is how many spare units were free.
type sample struct {
	At   time.Time `json:"at"`
	Free uint64    `json:"free"`
}

// spareGoesDown draws a line through what was free within two days, and looks where it is in a
// week, as Prometheus' predict_linear does.
func spareGoesDown(d *Device, m *setMemory, now time.Time) finding {
	s := d.Status.Spare
	if n := len(m.Spare); n == 0 || now.Sub(m.Spare[n-1].At) >= sampleEvery {
		m.Spare = append(m.Spare, sample{now, s.Free})
	}
	m.Spare = slices.DeleteFunc(m.Spare, func(x sample) bool {
		return now.Sub(x.At) > spareWindow
	})
	first := m.Spare[0]
	if s.Free+spareLeast >= first.Free || s.Free <= s.Total/spareLow {
		return finding{}
	}
	var n, x, y, xx, xy float64
	for _, p := range append(slices.Clip(m.Spare), sample{now, s.Free}) {
		t, free := p.At.Sub(now).Seconds(), float64(p.Free)
		n, x, y, xx, xy = n+1, x+t, y+free, xx+t*t, xy+t*free
	}
	if n*xx == x*x {
		return finding{}
	}
	slope := (n*xy - x*y) / (n*xx - x*x)
	return at((y-slope*x)/n+slope*spareHorizon.Seconds() < 0, 0)
}

// serverReplaced counts servers that took over a device within an hour.
func serverReplaced(d *Device, m *setMemory, now time.Time) finding {
	l := d.Latencies
	if l != nil && !l.Started.Equal(m.Started) {
		if !m.Started.IsZero() && l.TookOver {
			m.Replaced = append(m.Replaced, now)
		}
		m.Started = l.Started
	}
	m.Replaced = slices.DeleteFunc(m.Replaced, func(t time.Time) bool {
		return now.Sub(t) > replaceWindow
	})
	n := uint64(len(m.Replaced))
	return at(n > replaceMost, n)
}

// counts is what a histogram has counted, at a time.
type counts struct {
	at      time.Time
	started time.Time // of the server
	buckets [latency.Buckets]uint64
}

// slow compares the histograms of now with those of a quarter of an hour ago.
func slow(d *Device, m *setMemory, now time.Time) finding {
	if d.Latencies == nil {
		return finding{}
	}
	c := &counts{at: now, started: d.Latencies.Started}
	for _, r := range d.Latencies.Requests {
		if r.Operation != "read" && r.Operation != "write" {
			continue
		}
		for _, b := range r.Buckets {
			if b.Index >= 0 && b.Index < latency.Buckets {
				c.buckets[b.Index] += b.Count
			}
		}
	}
	if n := len(m.counts); n == 0 || now.Sub(m.counts[n-1].at) >= slowWindow/maxRises {
		m.counts = append(m.counts, c)
	}
	m.counts = slices.DeleteFunc(m.counts, func(o *counts) bool {
		return now.Sub(o.at) > slowWindow || !o.started.Equal(c.started)
	})
	if len(m.counts) == 0 {
		return finding{}
	}
	all, late := uint64(0), uint64(0)
	for i := range c.buckets {
		n := c.buckets[i] - min(m.counts[0].buckets[i], c.buckets[i])
		all += n
		if i > 0 && latency.Bound(i-1) >= slowLimit {
			late += n
		}
	}
	return at(late > 0 && late*slowPart > all, 0)
}
