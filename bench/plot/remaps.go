package plot

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"github.com/dustin/go-humanize"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"ublkremap/bench/jobs"
	"ublkremap/bench/result"
)

// remaps draws what remaps cost requests that meet none of them, by their number: IOPS
// as a share of what the device without remaps does in the same round.
func remaps(r *result.Results) ([]*picture, error) {
	all, err := jobs.All()
	if err != nil {
		return nil, err
	}
	numbers := remapNumbers(r)
	names := make([]string, len(numbers))
	for i, n := range numbers {
		names[i] = humanize.Comma(n)
	}
	colors := map[string]color.RGBA{"randread": blue, "randwrite": vermillion}
	var out []*picture
	for _, n := range queueNumbers(r) {
		p := newPicture(fmt.Sprintf("remaps-q%d", n))
		q := p.panel("Requests of 4 KiB that meet none of the remaps, "+queues(n), "remaps",
			"IOPS, as a share of those without remaps")
		horizontal(q)
		low, high, drawn := 0.9, 1.05, 0
		for _, j := range all {
			for _, zero := range []bool{false, true} {
				if !j.Miss {
					continue
				}
				name := j.Pattern + ", copying"
				if zero {
					name = j.Pattern + ", zero copy"
				}
				s := missing(r, result.Case{Suite: "remaps", Job: j.Name, Queues: n}, zero, numbers,
					apart(drawn, 4))
				for _, v := range s.y {
					low, high = min(low, v.Min), max(high, v.Max)
				}
				if err := p.add(q, name, look{colors[j.Pattern], zero}, s); err != nil {
					return nil, err
				}
				if s.Len() > 1 {
					drawn++
				}
			}
		}
		if drawn == 0 {
			continue
		}
		categories(q, names)
		q.Y.Min, q.Y.Max, q.Y.Tick.Marker = low-0.02, high+0.02, roundTicks{}
		target := plotter.NewFunction(func(float64) float64 { return result.Misses })
		target.LineStyle = draw.LineStyle{Color: grey, Width: 0.8, Dashes: []vg.Length{vg.Points(1),
			vg.Points(2)}}
		q.Add(target)
		p.named("target", target)
		out = append(out, p)
	}
	return out, nil
}

// missing is the line of one job in one mode, moved by dx.
func missing(r *result.Results, c result.Case, zero bool, numbers []int64, dx float64) series {
	var s series
	of := func(n int64) string {
		for _, p := range r.Peers {
			if p.Table != nil && p.Table.First == 1 && p.Table.Remaps == n && p.Zero == zero {
				return p.Name
			}
		}
		return ""
	}
	for i, n := range numbers {
		if v := r.Ratio(c, of(n), of(0)); v.N > 0 {
			s.x, s.y = append(s.x, float64(i)+dx), append(s.y, v)
		}
	}
	return s
}

// remapNumbers are the sizes of tables that requests miss, ascending.
func remapNumbers(r *result.Results) []int64 {
	var out []int64
	for _, p := range r.Peers {
		if p.Table != nil && p.Table.First == 1 && !slices.Contains(out, p.Table.Remaps) {
			out = append(out, p.Table.Remaps)
		}
	}
	slices.Sort(out)
	return out
}

func queueNumbers(r *result.Results) []int {
	var out []int
	for _, c := range r.Cases() {
		if c.Suite == "remaps" && !slices.Contains(out, c.Queues) {
			out = append(out, c.Queues)
		}
	}
	return out
}

// heals draws how many of the writes took at most how long.
func heals(r *result.Results) ([]*picture, error) {
	if len(r.Heals) == 0 {
		return nil, nil
	}
	p := newPicture("heals")
	q := p.panel("Writes of 4 KiB, one at a time", "latency, µs",
		"share of writes that took at most this long")
	horizontal(q)
	styles := looks(r)
	low, high := math.Inf(1), 0.0
	for _, h := range r.Heals {
		for _, of := range []struct {
			name string
			ns   []int64
			thin bool
		}{{"bad block", h.Healed, false}, {"good block", h.Plain, true}} {
			us := slices.Sorted(slices.Values(result.Micros(of.ns)))
			if len(us) == 0 {
				continue
			}
			points := make(plotter.XYs, len(us))
			for i, v := range us {
				points[i] = plotter.XY{X: max(v, 0.1), Y: float64(i+1) / float64(len(us))}
			}
			low, high = min(low, points[0].X), max(high, points[len(us)-1].X)
			line, err := plotter.NewLine(points)
			if err != nil {
				return nil, err
			}
			line.StepStyle = plotter.PreStep
			line.LineStyle = styles[h.Peer].line()
			if of.thin {
				line.Width, line.Color = 1, grey
			}
			q.Add(line)
			p.named(h.Peer+", "+of.name, line)
		}
	}
	logarithmic(&q.X, low, high)
	q.Y.Min, q.Y.Max, q.Y.Tick.Marker = 0, 1, roundTicks{}
	return []*picture{p}, nil
}
