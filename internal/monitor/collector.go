package monitor

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ublkremap/internal/control"
)

// Source returns the status of all devices of this host.
type Source func(ctx context.Context) ([]*control.Status, error)

// scrapeTime is how long one scrape may take. A server that does not answer is given up earlier,
// see package host. Prometheus' own default is 10 s.
const scrapeTime = 9 * time.Second

// namespace begins the name of each metric.
const namespace = "ublk_remap"

// set is the label that names a set. Names are unique on a host, and stay when the device gets
// another number.
const set = "set"

// family is the metrics of one subject.
type family interface {
	// describe sends the description of each metric.
	describe(chan<- *prometheus.Desc)
	// collect sends the metrics of a device.
	collect(*control.Status, chan<- prometheus.Metric)
}

// families are those of the files metrics_*.go, which add theirs.
var families []family

// metric is a metric of a device, and how it follows from a status. has says whether the device has
// it; nil means that each device has.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*control.Status) float64
	has   func(*control.Status) bool
}

// plain is a family of metrics that have one value for each device.
type plain []metric

func (p plain) describe(to chan<- *prometheus.Desc) {
	for i := range p {
		to <- p[i].desc
	}
}

func (p plain) collect(st *control.Status, to chan<- prometheus.Metric) {
	for i := range p {
		if m := &p[i]; m.has == nil || m.has(st) {
			to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(st), st.Name)
		}
	}
}

// desc describes a metric that has the label set, and these.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help,
		append([]string{set}, labels...), nil)
}

func gauge(name, help string, value func(*control.Status) float64) metric {
	return metric{desc: desc(name, help), kind: prometheus.GaugeValue, value: value}
}

// counter is a counter of a device's server. Without an answer of the server there is none.
func counter(name, help string, value func(*control.Status) float64) metric {
	return metric{desc: desc(name, help), kind: prometheus.CounterValue, value: value,
		has: answered}
}

// figure is a gauge that only the server can tell.
func figure(name, help string, value func(*control.Status) float64) metric {
	m := gauge(name, help, value)
	m.has = answered
	return m
}

// answered reports whether a server has answered. Without one the figures are 0, and mean nothing.
func answered(st *control.Status) bool {
	return st.ServerPID != 0 && st.State != control.StateUnreachable &&
		st.State != control.StateFailed && len(st.Metadata.Mirrors) > 0
}

// collector is a prometheus.Collector that asks all servers once for a scrape.
type collector struct {
	source Source
	up     *prometheus.Desc
	took   *prometheus.Desc
	count  *prometheus.Desc
}

// NewCollector returns a collector of all metrics.
func NewCollector(source Source) prometheus.Collector {
	own := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "monitor", name), help, nil,
			nil)
	}
	return &collector{source,
		own("success", "Whether the devices of this host could be listed (1) or not (0)."),
		own("scrape_seconds", "How long it took to ask all servers."),
		own("devices", "Devices of ublk-remap on this host, with or without a living server."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.took, c.count} {
		to <- d
	}
	for _, f := range families {
		f.describe(to)
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	began := time.Now()
	all, err := c.source(ctx)
	send := func(d *prometheus.Desc, v float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	send(c.up, yes(err == nil))
	send(c.took, time.Since(began).Seconds())
	send(c.count, float64(len(all)))
	seen := map[string]bool{}
	for _, st := range all {
		// Two series of the same labels would void the whole scrape.
		if st.Name == "" || seen[st.Name] {
			continue
		}
		seen[st.Name] = true
		for _, f := range families {
			f.collect(st, to)
		}
	}
}

// text is a label's value. A path on Linux can be any bytes, and Prometheus takes only UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// yes is a truth as a number.
func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
