package monitor

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
)

// times is a histogram of package latency, as both kinds of Prometheus' histograms. Scrapers that
// ask for protobuf get the native one: a bucket for each doubling (schema 0), which has the same
// bounds. The classic one has a bucket for each second doubling.
type times struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	hist   *control.Histogram
	since  time.Time
}

func newTimes(desc *prometheus.Desc, h *control.Histogram, since time.Time,
	labels ...string) prometheus.Metric {
	return &times{desc, prometheus.MakeLabelPairs(desc, labels), h, since}
}

// Bounds of the classic histogram, as powers of two of a second: 3.8 µs to 64 s.
const (
	classicFirst = -18
	classicLast  = 6
	classicStep  = 2

	// nativeFirst is the index of the first native bucket: that behind the zero bucket, whose bound
	// is that of bucket 0. A native bucket of schema 0 and index i ends at 2^i.
	nativeFirst = -19
	nativeLast  = 9 // it has what is longer than all bounds
)

// Desc implements prometheus.Metric.
func (h *times) Desc() *prometheus.Desc { return h.desc }

// Write implements prometheus.Metric.
func (h *times) Write(out *dto.Metric) error {
	var doubling [nativeLast - nativeFirst + 1]int64
	var zero, all uint64
	for _, b := range h.hist.Buckets {
		all += b.Count
		if b.Index <= 0 {
			zero += b.Count
			continue
		}
		doubling[min((b.Index-1)/latency.Doubling, len(doubling)-1)] += int64(b.Count)
	}
	sum, schema := float64(h.hist.SumNS)/1e9, int32(0)
	threshold := latency.Bound(0)
	m := &dto.Histogram{SampleCount: &all, SampleSum: &sum, Schema: &schema, ZeroCount: &zero,
		ZeroThreshold: &threshold, CreatedTimestamp: timestamppb.New(h.since)}
	first, length := int32(nativeFirst), uint32(len(doubling))
	m.PositiveSpan = []*dto.BucketSpan{{Offset: &first, Length: &length}}
	last, below := int64(0), zero
	for i, n := range doubling {
		m.PositiveDelta = append(m.PositiveDelta, n-last)
		last = n
		below += uint64(n)
		end := nativeFirst + i
		if end >= classicFirst && end <= classicLast && (end-classicFirst)%classicStep == 0 {
			count, bound := below, math.Ldexp(1, end)
			m.Bucket = append(m.Bucket, &dto.Bucket{CumulativeCount: &count, UpperBound: &bound})
		}
	}
	out.Label, out.Histogram = h.labels, m
	return nil
}
