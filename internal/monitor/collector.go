package monitor

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"ublkremap/internal/control"
)

// Device is what a scrape knows of a device.
type Device struct {
	*control.Status
	Latencies *control.Latencies // nil: the server did not tell, or is too old for it
	Missing   int                // disks that are not on this host
	// Verdict is what package health says of the disk: good, watch, replace_now or unknown. Empty:
	// it was not judged yet.
	Verdict string
}

// Source returns all devices of this host. If not all could be found it returns those that were,
// with an error.
type Source func(ctx context.Context) ([]Device, error)

// scrapeTime is how long one scrape may take. A server that does not answer is given up earlier,
// see package host. Prometheus' own default is 10 s.
var scrapeTime = 9 * time.Second

// namespace begins the name of each metric.
const namespace = "ublk_remap"

// set is the label that names a set. Names are unique on a host, and stay when the device gets
// another number.
const set = "set"

// family is the metrics of one subject.
type family interface {
	// describe sends the description of each metric.
	describe(chan<- *prometheus.Desc)
	// collect sends the metrics of a device, whose name is text for a label.
	collect(*Device, chan<- prometheus.Metric)
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

func (p plain) collect(d *Device, to chan<- prometheus.Metric) {
	for i := range p {
		if m := &p[i]; m.has == nil || m.has(d.Status) {
			to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(d.Status), d.Name)
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
	return st.HasFigures() && st.State != control.StateFailed
}

// collector is a prometheus.Collector that asks all servers once for a scrape.
type collector struct {
	source Source
	asking singleflight.Group
	up     *prometheus.Desc
	took   *prometheus.Desc
	count  *prometheus.Desc
	last   *prometheus.Desc

	mu       sync.Mutex
	answered map[string]time.Time // by set: when its server answered last
}

// newCollector returns a collector of all metrics.
func newCollector(source Source) prometheus.Collector {
	own := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "monitor", name), help, nil,
			nil)
	}
	return &collector{source: source, answered: map[string]time.Time{},
		up:   own("success", "Whether the devices of this host could be listed (1) or not (0)."),
		took: own("scrape_seconds", "How long it took to ask all servers."),
		count: own("devices", "Devices of ublk-remap on this host, with or without a living "+
			"server."),
		last: desc("last_answer_timestamp_seconds", "When the server answered the monitor last. "+
			"There is no value if it never has."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.took, c.count, c.last} {
		to <- d
	}
	for _, f := range families {
		f.describe(to)
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	began := time.Now()
	all, err := c.ask()
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	send(c.up, yes(err == nil))
	send(c.took, time.Since(began).Seconds())
	send(c.count, float64(len(all)))
	seen := map[string]bool{}
	for _, d := range all {
		named := *d.Status
		named.Name = text(d.Name)
		d.Status = &named
		// Two series of the same labels would void the whole scrape.
		if d.Name == "" || seen[d.Name] {
			continue
		}
		seen[d.Name] = true
		if at, ever := c.lastAnswer(&d); ever {
			send(c.last, float64(at.UnixMilli())/1000, d.Name)
		}
		for _, f := range families {
			f.collect(&d, to)
		}
	}
	c.forget(seen)
}

// ask asks the source, and gives up after scrapeTime, also if the source does not. Scrapes at the
// same time get the same answer, and none begins to ask before the last has ended. So no number of
// scrapes adds up to more than one that hangs.
func (c *collector) ask() ([]Device, error) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	answer := c.asking.DoChan("", func() (any, error) {
		defer cancel()
		return c.source(ctx)
	})
	select {
	case a := <-answer:
		all, _ := a.Val.([]Device)
		return slices.Clone(all), a.Err
	case <-time.After(scrapeTime + time.Second):
		return nil, errors.New("the devices are not listed in time")
	}
}

// lastAnswer returns when the server of a device answered last, if it ever has.
func (c *collector) lastAnswer(d *Device) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answered(d.Status) {
		c.answered[d.Name] = time.Now()
	}
	at, ever := c.answered[d.Name]
	return at, ever
}

// forget keeps only the sets that are there.
func (c *collector) forget(seen map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.answered, func(set string, _ time.Time) bool { return !seen[set] })
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
