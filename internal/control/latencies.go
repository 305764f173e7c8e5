package control

import (
	"context"
	"net/http"
	"time"
)

// LatencyHandler tells how long requests and operations take.
type LatencyHandler interface {
	Latencies(ctx context.Context) (*Latencies, error)
}

// Latencies is how long requests of the device, and operations on its disks, have taken since the
// server started. Package latency has the bounds of the buckets, which never change. Series without
// a count are left out.
type Latencies struct {
	Started time.Time `json:"started"` // when the server took the device
	// TookOver: the device was there already, from a server that died or gave it up.
	TookOver bool `json:"took_over"`
	// TimedOneIn: one request in so many is timed, chosen at random. It is 1 where the clock is
	// cheap to read. Requests that met a bad block are all counted.
	TimedOneIn int              `json:"timed_one_in"`
	Requests   []RequestLatency `json:"requests"`
	Disks      []DiskLatency    `json:"disks"`
	Errors     []DiskErrors     `json:"errors"`
	Depth      Depths           `json:"depth"`
}

// Histogram counts times by buckets of package latency.
type Histogram struct {
	SumNS   uint64   `json:"sum_ns"`
	Buckets []Bucket `json:"buckets"` // that have a count, in order
}

// Bucket is how many times were in a bucket. Buckets do not include those before them.
type Bucket struct {
	Index int    `json:"index"`
	Count uint64 `json:"count"`
}

// RequestLatency is from when a request came to the server until its answer.
type RequestLatency struct {
	Operation string `json:"operation"` // read, write, zeroes, discard or flush
	// Path is none (no disk was asked), home, spare (spare units were asked) or heal (it met a bad
	// block).
	Path string `json:"path"`
	Histogram
}

// DiskLatency is from when the server began an operation on a disk until its result. It includes
// operations that failed.
type DiskLatency struct {
	Disk      string `json:"disk"` // backing, or spare for all spare devices
	Operation string `json:"operation"`
	Histogram
}

// DiskErrors counts operations on a disk that failed, on the I/O path.
type DiskErrors struct {
	Disk      string `json:"disk"`
	Operation string `json:"operation"`
	Errno     int    `json:"errno"` // 0: it ended without an error before its end
	// Cause is medium, resource (tried again) or path.
	Cause string `json:"cause"`
	Count uint64 `json:"count"`
}

// Depths counts timed requests by how many requests of their queue were under way when they came,
// themselves included.
type Depths struct {
	Sum uint64 `json:"sum"`
	// Counts[i] counts depths of more than 2^(i-1) up to 2^i.
	Counts []uint64 `json:"counts"`
}

func (r *router) latencies(w http.ResponseWriter, req *http.Request) {
	begun(req)
	v, err := r.h.Latencies(req.Context())
	reply(w, v, err)
}

// LatenciesWithin asks for the histograms. The error wraps ErrNotFound if the server is too old for
// that, and ErrSilent if no answer comes within limit.
func (c *Client) LatenciesWithin(ctx context.Context, limit time.Duration) (*Latencies, error) {
	var l Latencies
	return &l, c.call(ctx, limit, http.MethodGet, "/v1/latencies", nil, &l)
}
