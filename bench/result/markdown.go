package result

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"ublkremap/bench/peer"
)

// Markdown writes the report. plots are file names of pictures to show at its end.
func (r *Results) Markdown(w io.Writer, plots []string) error {
	var b strings.Builder
	r.head(&b)
	r.ratios(&b)
	r.medians(&b, "Thousand IOPS", func(s Sample) float64 { return s.IOPS / 1e3 })
	r.medians(&b, "Latency: median, µs", func(s Sample) float64 { return P50(s) / 1e3 })
	r.medians(&b, "Latency: 99th percentile, µs", func(s Sample) float64 { return P99(s) / 1e3 })
	r.medians(&b, "Latency: 99.9th percentile, µs", func(s Sample) float64 { return P999(s) / 1e3 })
	r.servers(&b)
	r.idle(&b)
	r.heals(&b)
	if len(plots) > 0 {
		b.WriteString("\n## Plots\n")
		for _, p := range plots {
			_, _ = fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(p, ".svg"), p)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Results) head(b *strings.Builder) {
	m := r.Machine
	_, _ = fmt.Fprintf(b, "# Measured on %s, Linux %s\n\n    %s\n\n",
		r.Date.UTC().Format("2006-01-02 15:04 UTC"), m.Kernel, r.Command)
	where := "natively"
	if m.Guest != "" {
		where = "in a guest (" + m.Guest + ")"
	}
	_, _ = fmt.Fprintf(b, "Commit %s, %s, %s, %d CPU, %d MiB of memory, %s, %s. ", r.Commit, where,
		m.CPU, m.CPUs, m.Memory>>20, m.Fio, m.Go)
	if m.Guest == "uml" {
		b.WriteString("User-mode Linux counts nearly all CPU time as system time. ")
	}
	_, _ = fmt.Fprintf(b, "Latencies of fsync-4k-d1 are those of fsync. %d rounds of %v for each "+
		"job on each device, in an order drawn anew each round (seed %d), on %d MiB of a "+
		"null_blk disk in memory each.\n",
		r.Rounds, r.Runtime, r.Seed, r.Bytes>>20)
	if fewer := r.fewerQueues(); fewer != "" {
		_, _ = fmt.Fprintf(b, "\n%s\n", fewer)
	}
	if len(r.Missing) > 0 {
		b.WriteString("\nNot measured:\n\n")
		for _, s := range r.Missing {
			_, _ = fmt.Fprintf(b, "* %s\n", s)
		}
	}
	var notes []string
	for _, p := range r.Peers {
		if p.Variant {
			notes = append(notes, fmt.Sprintf("* %s: `%s start … %s`", p.Name, p.Program,
				strings.Join(p.Flags, " ")))
		}
	}
	if len(notes) > 0 {
		_, _ = fmt.Fprintf(b, "\nVariants:\n\n%s\n", strings.Join(notes, "\n"))
	}
}

// fewerQueues tells where the kernel made fewer queues than were asked for.
func (r *Results) fewerQueues() string {
	made := map[int]int{}
	for _, s := range r.Samples {
		made[s.Queues] = max(made[s.Queues], s.HardwareQueues)
	}
	var out []string
	for _, n := range slices.Sorted(maps.Keys(made)) {
		if made[n] > 0 && made[n] < n {
			out = append(out, fmt.Sprintf("For %d queues the kernel made %d, as there are no "+
				"more CPUs; %d processes use them.", n, made[n], n))
		}
	}
	return strings.Join(out, " ")
}

func (c Case) String() string {
	if c.Queues == 1 {
		return c.Job
	}
	return fmt.Sprintf("%s, %d queues", c.Job, c.Queues)
}

// PeersOf returns the peers that have samples of any of the cases, in their order.
func (r *Results) PeersOf(cases []Case) []peer.Peer {
	var out []peer.Peer
	for _, p := range r.Peers {
		if slices.ContainsFunc(cases, func(c Case) bool {
			return len(r.Values(c, p.Name,
				IOPS)) > 0
		}) {
			out = append(out, p)
		}
	}
	return out
}

// suites splits the cases: the devices of different suites are different.
func (r *Results) suites() [][]Case {
	var out [][]Case
	for _, c := range r.Cases() {
		i := slices.IndexFunc(out, func(o []Case) bool { return o[0].Suite == c.Suite })
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], c)
	}
	return out
}

func (r *Results) medians(b *strings.Builder, title string, f Figure) {
	if len(r.Samples) == 0 {
		return
	}
	_, _ = fmt.Fprintf(b, "\n## %s: median (lowest–highest)\n", title)
	for _, cases := range r.suites() {
		peers := r.PeersOf(cases)
		b.WriteString("\n| job |")
		for _, p := range peers {
			_, _ = fmt.Fprintf(b, " %s |", p.Name)
		}
		_, _ = fmt.Fprintf(b, "\n| --- |%s\n", strings.Repeat(" --- |", len(peers)))
		for _, c := range cases {
			_, _ = fmt.Fprintf(b, "| %s |", c)
			for _, p := range peers {
				_, _ = fmt.Fprintf(b, " %s |", Of(r.Values(c, p.Name, f)))
			}
			b.WriteString("\n")
		}
	}
}

func (s Spread) String() string {
	switch s.N {
	case 0:
		return ""
	case 1:
		return short(s.Median)
	default:
		return fmt.Sprintf("%s (%s–%s)", short(s.Median), short(s.Min), short(s.Max))
	}
}

// short shows three digits, or all before the point.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// wantRounds is how many rounds it takes to say that a target was met or missed.
const wantRounds = 5

func (r *Results) ratios(b *strings.Builder) {
	rows := r.Comparisons()
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n## Ratios of IOPS: of medians (lowest–highest of any one round)\n\n| job | " +
		"| against | ratio | target | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, c := range rows {
		target, verdict := "", ""
		if c.Target > 0 {
			target, verdict = fmt.Sprintf("≥ %.2f", c.Target), "met"
			if c.Ratio.Median < c.Target {
				verdict = "**missed**"
			}
			if c.Ratio.N < wantRounds {
				verdict += fmt.Sprintf(" (%d rounds; %d are wanted)", c.Ratio.N, wantRounds)
			}
		}
		_, _ = fmt.Fprintf(b, "| %s | %s | %s | %.2f (%.2f–%.2f) | %s | %s |\n",
			c.Case, c.Peer, c.Against, c.Ratio.Median, c.Ratio.Min, c.Ratio.Max, target, verdict)
	}
}

// servers tells what a request costs the server of a device.
func (r *Results) servers(b *strings.Builder) {
	if !slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Server != nil }) {
		return
	}
	b.WriteString("\n## Servers: CPU time and context switches for each request, medians\n\n" +
		"| job | | user, µs | system, µs | voluntary | involuntary |\n| --- | --- | --- | --- | " +
		"--- | --- |\n")
	for _, c := range r.Cases() {
		for _, p := range r.PeersOf([]Case{c}) {
			var user, system, vol, inv []float64
			for _, s := range r.Samples {
				if (Case{s.Suite, s.Job, s.Queues}) != c || s.Peer != p.Name || s.Server == nil ||
					s.Completed == 0 {
					continue
				}
				n := float64(s.Completed)
				user, system = append(user, s.Server.User*1e6/n),
					append(system, s.Server.System*1e6/n)
				vol, inv = append(vol, float64(s.Server.Voluntary)/n),
					append(inv, float64(s.Server.Involuntary)/n)
			}
			if len(user) > 0 {
				_, _ = fmt.Fprintf(b, "| %s | %s | %.1f | %.1f | %.3f | %.3f |\n", c, p.Name,
					Quantile(user, 0.5), Quantile(system, 0.5), Quantile(vol, 0.5),
					Quantile(inv, 0.5))
			}
		}
	}
}

func (r *Results) idle(b *strings.Builder) {
	if len(r.Idle) == 0 {
		return
	}
	b.WriteString("\n## A live device that nobody uses: context switches of its server in a " +
		"second (target 0)\n\n" +
		"`iou-wrk` are the kernel's own threads for io_uring requests that wait; they look every " +
		"five seconds whether they are needed.\n\n" +
		"| | queues | seconds | voluntary | involuntary | in all, by thread |\n| --- | --- | --- " +
		"| --- | --- | --- |\n")
	for _, i := range r.Idle {
		var threads []string
		for _, t := range i.Threads {
			threads = append(threads, fmt.Sprintf("%s %d", t.Name, t.Voluntary+t.Involuntary))
		}
		_, _ = fmt.Fprintf(b, "| %s | %d | %.0f | %.2f | %.2f | %s |\n", i.Peer, i.Queues,
			i.Seconds,
			float64(i.Server.Voluntary)/i.Seconds, float64(i.Server.Involuntary)/i.Seconds,
			strings.Join(threads, ", "))
	}
}

func (r *Results) heals(b *strings.Builder) {
	if len(r.Heals) == 0 {
		return
	}
	b.WriteString("\n## Writes of 4 KiB that heal a bad block, µs\n\n| | | n | median | 90 % | " +
		"99 % | longest |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, h := range r.Heals {
		for _, row := range []struct {
			name string
			ns   []int64
		}{{"a good block", h.Plain}, {"a bad block", h.Healed}} {
			us := Micros(row.ns)
			_, _ = fmt.Fprintf(b, "| %s | %s | %d | %s | %s | %s | %s |\n", h.Peer, row.name,
				len(us),
				short(Quantile(us, 0.5)), short(Quantile(us, 0.9)), short(Quantile(us, 0.99)),
				short(Quantile(us, 1)))
		}
	}
}

// Micros turns nanoseconds into microseconds.
func Micros(ns []int64) []float64 {
	out := make([]float64, len(ns))
	for i, n := range ns {
		out[i] = float64(n) / float64(time.Microsecond)
	}
	return out
}
