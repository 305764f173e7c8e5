package monitor

import "github.com/prometheus/client_golang/prometheus"

// AlertCount is what a way of alerts has done since the monitor's start.
type AlertCount struct{ Sent, Failed, Dropped uint64 }

// alerts counts what the monitor tells by itself. It is about the monitor, not about a device.
type alerts struct {
	counts                func() map[string]AlertCount
	sent, failed, dropped *prometheus.Desc
}

func newAlerts(counts func() map[string]AlertCount) *alerts {
	own := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "alerts", name), help,
			[]string{"way"}, nil)
	}
	return &alerts{counts: counts,
		sent:    own("sent_total", "Alerts that were brought by this way."),
		failed:  own("failed_total", "Tries to bring an alert by this way that failed."),
		dropped: own("dropped_total", "Alerts that were dropped, because too many waited."),
	}
}

// Describe implements prometheus.Collector.
func (a *alerts) Describe(to chan<- *prometheus.Desc) {
	to <- a.sent
	to <- a.failed
	to <- a.dropped
}

// Collect implements prometheus.Collector.
func (a *alerts) Collect(to chan<- prometheus.Metric) {
	for way, c := range a.counts() {
		for desc, n := range map[*prometheus.Desc]uint64{a.sent: c.Sent, a.failed: c.Failed,
			a.dropped: c.Dropped} {
			to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), way)
		}
	}
}
