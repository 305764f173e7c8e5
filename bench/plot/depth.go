package plot

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"ublkremap/bench/jobs"
	"ublkremap/bench/result"
)

// group is a pattern with a number of queues, at several depths.
type group struct {
	pattern string
	queues  int
	jobs    []jobs.Job // by depth
	cases   []result.Case
}

func (g group) title() string {
	what := map[string]string{"randread": "Random reads", "randwrite": "Random writes"}[g.pattern]
	return fmt.Sprintf("%s of 4 KiB, %s", what, queues(g.queues))
}

func queues(n int) string {
	if n == 1 {
		return "1 queue"
	}
	return fmt.Sprintf("%d queues", n)
}

func (g group) file(what string) string {
	return fmt.Sprintf("%s-%s-4k-q%d", what, g.pattern, g.queues)
}

func (g group) depths() []string {
	out := make([]string, len(g.jobs))
	for i, j := range g.jobs {
		out[i] = fmt.Sprint(j.Depth)
	}
	return out
}

// groups finds the random 4k jobs of the suite io that were measured.
func groups(r *result.Results) ([]group, error) {
	all, err := jobs.All()
	if err != nil {
		return nil, err
	}
	var out []group
	cases := r.Cases()
	// Jobs are in the order of depths already.
	for _, j := range all {
		if !j.Random() || !j.Parallel || j.Miss {
			continue
		}
		for _, c := range cases {
			if c.Suite != "io" || c.Job != j.Name {
				continue
			}
			i := slices.IndexFunc(out, func(g group) bool {
				return g.pattern == j.Pattern &&
					g.queues == c.Queues
			})
			if i < 0 {
				out = append(out, group{pattern: j.Pattern, queues: c.Queues})
				i = len(out) - 1
			}
			out[i].jobs, out[i].cases = append(out[i].jobs, j), append(out[i].cases, c)
		}
	}
	return out, nil
}

// lines adds a line for each device, and returns the range of all values.
func (p *picture) lines(q *plot.Plot, r *result.Results, g group, f result.Figure, named bool) (low,
	high float64, err error) {
	low = math.Inf(1)
	styles := looks(r)
	peers := r.PeersOf(g.cases)
	for k, pr := range peers {
		var s series
		for i, c := range g.cases {
			if v := result.Of(r.Values(c, pr.Name, f)); v.N > 0 {
				s.x, s.y = append(s.x, float64(i)+apart(k, len(peers))), append(s.y, v)
				low, high = min(low, v.Min), max(high, v.Max)
			}
		}
		name := ""
		if named {
			name = pr.Name
		}
		if err := p.add(q, name, styles[pr.Name], s); err != nil {
			return 0, 0, err
		}
	}
	return low, high, nil
}

// depths draws IOPS by depth.
func depths(r *result.Results) ([]*picture, error) {
	gs, err := groups(r)
	if err != nil {
		return nil, err
	}
	var out []*picture
	for _, g := range gs {
		p := newPicture(g.file("iops"))
		q := p.panel(g.title(), "requests in flight of each process", "thousand IOPS")
		horizontal(q)
		_, high, err := p.lines(q, r, g, func(s result.Sample) float64 { return s.IOPS / 1e3 },
			true)
		if err != nil {
			return nil, err
		}
		categories(q, g.depths())
		fromZero(q, high)
		out = append(out, p)
	}
	return out, nil
}

// latencies draws percentiles by depth, each in a panel of its own, with the same axis.
func latencies(r *result.Results) ([]*picture, error) {
	gs, err := groups(r)
	if err != nil {
		return nil, err
	}
	var out []*picture
	for _, g := range gs {
		p := newPicture(g.file("latency"))
		low, high := math.Inf(1), 0.0
		for i, f := range []struct {
			name   string
			figure result.Figure
		}{{"median", result.P50}, {"99 %", result.P99}, {"99.9 %", result.P999}} {
			q := p.panel(g.title()+": "+f.name, "requests in flight of each process", "")
			if i == 0 {
				q.Y.Label.Text = "latency, µs"
			}
			horizontal(q)
			l, h, err := p.lines(
				q, r, g, func(s result.Sample) float64 { return max(f.figure(s)/1e3, 0.1) }, i == 0)
			if err != nil {
				return nil, err
			}
			low, high = min(low, l), max(high, h)
			categories(q, g.depths())
		}
		for _, q := range p.panels {
			logarithmic(&q.Y, low, high)
		}
		out = append(out, p)
	}
	return out, nil
}

// sequential draws the throughput of large requests as bars, a group for each job.
func sequential(r *result.Results) ([]*picture, error) {
	all, err := jobs.All()
	if err != nil {
		return nil, err
	}
	var cases []result.Case
	var names []string
	for _, j := range all {
		for _, c := range r.Cases() {
			if c.Suite == "io" && c.Job == j.Name && !j.Random() {
				cases = append(cases, c)
				names = append(names, fmt.Sprintf("%s %dk", j.Pattern, j.BlockSize>>10))
			}
		}
	}
	if len(cases) == 0 {
		return nil, nil
	}
	p := newPicture("bandwidth-sequential")
	q := p.panel("Sequential, 8 requests in flight", "", "GiB/s")
	horizontal(q)
	high := 0.0
	styles := looks(r)
	peers := r.PeersOf(cases)
	width := (panelWidth - 2.5*vg.Centimeter) / vg.Length(len(cases)) / vg.Length(len(peers)+1)
	for i, pr := range peers {
		name := pr.Name
		values := make(plotter.Values, len(cases))
		for k, c := range cases {
			if v := result.Of(r.Values(c, name, result.Bandwidth)); v.N > 0 {
				values[k] = v.Median / (1 << 30)
			}
			high = max(high, values[k])
		}
		b, err := plotter.NewBarChart(values, width)
		if err != nil {
			return nil, err
		}
		l := styles[name]
		b.Color, b.LineStyle.Color, b.LineStyle.Width = l.color, l.color, 0.8
		if l.dashed {
			pale := l.color
			pale.R, pale.G, pale.B = 255-(255-pale.R)/3, 255-(255-pale.G)/3, 255-(255-pale.B)/3
			b.Color = pale
		}
		b.Offset = width * (vg.Length(i) - vg.Length(len(peers)-1)/2)
		q.Add(b)
		p.named(name, b)
	}
	categories(q, names)
	q.X.Min, q.X.Max = -0.5, float64(len(cases))-0.5
	fromZero(q, high)
	return []*picture{p}, nil
}
