package monitor

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
)

func init() { families = append(families, newLatencyFamily()) }

// latencyFamily has what a server measures.
type latencyFamily struct {
	requests, disks, depth, errors, oneIn, started, tookOver *prometheus.Desc
}

func newLatencyFamily() *latencyFamily {
	return &latencyFamily{
		requests: desc("request_duration_seconds", "From when a request came to the server until "+
			"its answer, by operation and path: none (no disk was asked), home, spare (spare "+
			"units were asked), heal (it met a bad block). See latency_timed_one_in.",
			"operation", "path"),
		disks: desc("disk_operation_duration_seconds", "How long operations on the backing disk "+
			"(backing) or the spare devices (spare) took. See latency_timed_one_in.",
			"disk", "operation"),
		depth: desc("queue_depth_requests", "Requests of a queue that were under way when one "+
			"came, itself included. See latency_timed_one_in."),
		errors: desc("disk_failed_operations_total", "Operations of the I/O path that failed, by "+
			"errno and its cause: medium, resource (tried again) or path.",
			"disk", "operation", "errno", "cause"),
		oneIn: desc("latency_timed_one_in", "One request in so many is in the histograms, chosen "+
			"at random: more than 1 where it is expensive to read the clock. Those that met a bad "+
			"block are all in them."),
		started: desc("server_start_timestamp_seconds", "When the server took the device. It "+
			"changes at each recovery, upgrade and start."),
		tookOver: desc("server_took_over", "Whether the device was there before its server (1: a "+
			"recovery or an upgrade) or not (0)."),
	}
}

func (f *latencyFamily) describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{f.requests, f.disks, f.depth, f.errors, f.oneIn,
		f.started, f.tookOver} {
		to <- d
	}
}

func (f *latencyFamily) collect(d *Device, to chan<- prometheus.Metric) {
	l := d.Latencies
	if l == nil {
		return
	}
	gauge := func(desc *prometheus.Desc, v float64) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, d.Name)
	}
	gauge(f.oneIn, float64(l.TimedOneIn))
	gauge(f.started, float64(l.Started.UnixMilli())/1000)
	gauge(f.tookOver, yes(l.TookOver))
	for i := range l.Requests {
		r := &l.Requests[i]
		to <- newTimes(f.requests, &r.Histogram, l.Started, d.Name, text(r.Operation),
			text(r.Path))
	}
	for i := range l.Disks {
		r := &l.Disks[i]
		to <- newTimes(f.disks, &r.Histogram, l.Started, d.Name, text(r.Disk), text(r.Operation))
	}
	for _, e := range l.Errors {
		to <- prometheus.MustNewConstMetric(f.errors, prometheus.CounterValue, float64(e.Count),
			d.Name, text(e.Disk), text(e.Operation), errnoName(e.Errno), text(e.Cause))
	}
	f.sendDepth(d.Name, &l.Depth, to)
}

// sendDepth sends the depths of queues as a classic histogram with powers of two.
func (f *latencyFamily) sendDepth(set string, d *control.Depths, to chan<- prometheus.Metric) {
	buckets := map[float64]uint64{}
	n, bound := uint64(0), 1.0
	for _, c := range d.Counts {
		n += c
		buckets[bound] = n
		bound *= 2
	}
	to <- prometheus.MustNewConstHistogram(f.depth, n, float64(d.Sum), buckets, set)
}

// errnoName is the name of an errno of Linux, such as EIO.
func errnoName(errno int) string {
	if errno == 0 {
		return "none"
	}
	if name := unix.ErrnoName(unix.Errno(errno)); name != "" {
		return name
	}
	return strconv.Itoa(errno)
}
