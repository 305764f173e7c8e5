package page

import (
	"fmt"
	"math"
	"strings"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
	"ublkremap/internal/readable"
)

// Charts are drawn in a box of this size, and stretched to the width that there is. Texts are not
// in them.
const (
	chartWidth  = 600.0
	chartHeight = 100.0
)

// bar is a rectangle of a chart.
type bar struct {
	X, Y, W, H string
	Title      string
}

func px(v float64) string { return fmt.Sprintf("%.1f", v) }

// history is what was seen since the page, or a scrape, has asked.
type history struct {
	From, To        string
	Read, Write     string // points of lines
	Heals, Errors   []bar
	Rates, Says     string
	Top, TopHeals   string
	Enough          bool
	ReadNow, WriteN string
}

// gap is after what time without a sample a line is broken.
const gap = 2 * time.Minute

// rate is what happened between two samples.
type rate struct {
	from, to       time.Time
	read, write    float64 // bytes a second
	heals, errored float64 // how many
	whole          bool    // the samples are close to each other
}

// ratesOf returns the rates between samples, the highest of bytes and the most of the others.
func ratesOf(list []sample) (rates []rate, top, most float64) {
	top, most = 1, 1
	for i := 1; i < len(list); i++ {
		a, b := list[i-1], list[i]
		s := b.at.Sub(a.at).Seconds()
		// Another server counts from 0.
		if s <= 0 || b.read < a.read || b.write < a.write || b.heals < a.heals ||
			b.errored < a.errored {
			continue
		}
		r := rate{a.at, b.at, float64(b.read-a.read) / s, float64(b.write-a.write) / s,
			float64(b.heals - a.heals), float64(b.errored - a.errored), b.at.Sub(a.at) < gap}
		top, most = max(top, r.read, r.write), max(most, r.heals, r.errored)
		rates = append(rates, r)
	}
	return rates, top, most
}

// historyOf draws the history of rates.
func historyOf(list []sample, now time.Time) history {
	rates, top, most := ratesOf(list)
	if len(rates) == 0 {
		return history{}
	}
	start := list[0].at
	span := max(now.Sub(start).Seconds(), 1)
	x := func(t time.Time) float64 { return chartWidth * t.Sub(start).Seconds() / span }
	var read, write strings.Builder
	h := history{From: start.Local().Format("15:04:05"), To: "now", Enough: true,
		Top: readable.Rate(top), TopHeals: numText(uint64(most))}
	healed, failed := 0.0, 0.0
	drawn := time.Time{} // to where the lines are
	for _, r := range rates {
		line := func(b *strings.Builder, v float64) {
			y := chartHeight - v/top*(chartHeight-4)
			if !r.from.Equal(drawn) || !r.whole {
				fmt.Fprintf(b, "M%s %s", px(x(r.from)), px(y))
			}
			fmt.Fprintf(b, "L%s %s", px(x(r.to)), px(y))
		}
		line(&read, r.read)
		line(&write, r.write)
		drawn = r.to
		healed, failed = healed+r.heals, failed+r.errored
		add := func(to *[]bar, v float64, what string) {
			if v > 0 {
				height := max(v/most*chartHeight, 3)
				*to = append(*to, bar{px(x(r.from)), px(chartHeight - height),
					px(max(x(r.to)-x(r.from)-1, 1.5)), px(height),
					fmt.Sprintf("%s: %.0f %s", r.to.Local().Format("15:04:05"), v, what)})
			}
		}
		add(&h.Errors, r.errored, "errors")
		add(&h.Heals, r.heals, "healed")
	}
	h.Read, h.Write = read.String(), write.String()
	last := rates[len(rates)-1]
	h.ReadNow, h.WriteN = readable.Rate(last.read), readable.Rate(last.write)
	if now.Sub(last.to) >= gap {
		h.ReadNow, h.WriteN = "–", "–" // nobody has told for a while
	}
	h.Says = fmt.Sprintf("%s healed and %s failed in %s",
		counted(uint64(healed), "request was", "requests were"),
		counted(uint64(failed), "operation", "operations"), readable.Span(now.Sub(start)))
	return h
}

// recorded is how many spare units were taken, by the flight recorder.
type recorded struct {
	Bars     []bar
	From, To string
	Top      string
	Says     string
}

// recordedBars is how many bars there are at most.
const recordedBars = 30

// recordedOf draws what the flight recorder tells: bad places by days, or by hours if it does not
// reach back for three days.
func recordedOf(d *device, now time.Time) recorded {
	if d.first.IsZero() {
		return recorded{}
	}
	width, unit := 24*time.Hour, "day"
	if now.Sub(d.first) < 72*time.Hour {
		width, unit = time.Hour, "hour"
	}
	begin := now.Add(-recordedBars * width)
	units, places := [recordedBars]uint64{}, [recordedBars]uint64{}
	total, most, n := uint64(0), uint64(1), uint64(0)
	for _, b := range d.bad {
		if b.At.Before(begin) || b.At.After(now) {
			continue
		}
		i := min(int(b.At.Sub(begin)/width), recordedBars-1)
		units[i] += b.Spares
		failed := min(b.Count, 1)
		places[i] += failed
		total, n = total+b.Spares, n+failed
		most = max(most, units[i], places[i])
	}
	r := recorded{From: stamp(begin), To: "now", Top: numText(most)}
	r.Says = fmt.Sprintf("In the last %d %ss the disk failed in %s, and %s taken", recordedBars,
		unit, counted(n, "place", "places"), counted(total, "spare unit was", "spare units were"))
	if n == 0 {
		r.Says = fmt.Sprintf("In the last %d %ss no place of the disk went bad", recordedBars, unit)
	}
	each := chartWidth / recordedBars
	for i := range units {
		v := max(units[i], places[i])
		if v == 0 {
			continue
		}
		height := max(float64(v)/float64(most)*chartHeight, 3)
		at := begin.Add(time.Duration(i) * width).Local().Format("2006-01-02 15:04")
		r.Bars = append(r.Bars, bar{px(float64(i)*each + 1), px(chartHeight - height), px(each - 2),
			px(height), fmt.Sprintf("%s: %s, %s", at, counted(places[i], "place", "places"),
				counted(units[i], "spare unit", "spare units"))})
	}
	return r
}

// latencyRow is a histogram of how long requests of one kind take.
type latencyRow struct {
	What, Path, Class           string
	Count, Median, High, Longer string
	Bars                        []bar
}

// paths are how far a request can go, with what that means.
var paths = []struct{ path, says string }{{"home", "where they belong"},
	{"spare", "spare units were asked"}, {"heal", "met a bad block"}, {"none", "no disk was asked"}}

// Doublings of the charts: from a microsecond to four minutes.
const doublings = 1 + (latency.Buckets-2)/latency.Doubling + 1

// latencyRows draws the histograms of reads and writes by path.
func latencyRows(l *control.Latencies) (rows []latencyRow, timed string) {
	if l == nil {
		return nil, ""
	}
	for _, p := range paths {
		for _, op := range []string{"read", "write"} {
			for i := range l.Requests {
				if r := &l.Requests[i]; r.Path == p.path && r.Operation == op {
					row := latencyOf(&r.Histogram)
					row.What, row.Path, row.Class = op, p.path+": "+p.says, p.path
					rows = append(rows, row)
				}
			}
		}
	}
	timed = "Since the server started, " + stamp(l.Started) + "."
	if l.TimedOneIn > 1 {
		timed += fmt.Sprintf(" One request in %d is timed, and all that met a bad block.",
			l.TimedOneIn)
	}
	return rows, timed
}

// latencyOf draws one histogram. Heights are logarithms, so that a few requests that took long are
// seen beside a million that did not.
func latencyOf(h *control.Histogram) latencyRow {
	var by [doublings]uint64
	total := uint64(0)
	for _, b := range h.Buckets {
		i := 0
		if b.Index > 0 {
			i = min(1+(b.Index-1)/latency.Doubling, doublings-1)
		}
		by[i] += b.Count
		total += b.Count
	}
	most := 1.0
	for _, n := range by {
		most = max(most, math.Log2(1+float64(n)))
	}
	row := latencyRow{Count: numText(total), Median: quantile(h, total, 0.5),
		High: quantile(h, total, 0.99), Longer: quantile(h, total, 1)}
	each := chartWidth / doublings
	for i, n := range by {
		if n == 0 {
			continue
		}
		height := max(math.Log2(1+float64(n))/most*chartHeight, 4)
		bound := "more than " + readable.Seconds(latency.Bound(latency.Buckets-2))
		if i < doublings-1 {
			bound = "up to " + readable.Seconds(latency.Bound(i*latency.Doubling))
		}
		row.Bars = append(row.Bars, bar{px(float64(i)*each + 1), px(chartHeight - height),
			px(each - 2), px(height), bound + ": " + numText(n)})
	}
	return row
}

// quantile is the upper bound of the bucket that holds it.
func quantile(h *control.Histogram, total uint64, q float64) string {
	rank := uint64(math.Ceil(q * float64(total)))
	n := uint64(0)
	for _, b := range h.Buckets {
		if n += b.Count; n >= rank && n > 0 {
			if b.Index >= latency.Buckets-1 {
				return "over " + readable.Seconds(latency.Bound(latency.Buckets-2))
			}
			return readable.Seconds(latency.Bound(b.Index))
		}
	}
	return "–"
}
