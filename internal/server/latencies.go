package server

import (
	"context"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
	"ublkremap/remap"
)

// Names in the answer, which are part of it.
var (
	opNames = [opKinds]string{remap.OpRead: "read", remap.OpWrite: "write",
		remap.OpWriteZeroes: "zeroes", remap.OpDiscard: "discard", remap.OpFlush: "flush"}
	wayNames = [remap.Ways]string{remap.WayNone: "none", remap.WayHome: "home",
		remap.WaySpare: "spare", remap.WayHeal: "heal"}
	diskNames  = [diskKinds]string{"backing", "spare"}
	causeNames = map[remap.Class]string{remap.ClassMedium: "medium",
		remap.ClassResource: "resource", remap.ClassPath: "path"}
)

// Latencies merges what the queues have measured. It asks nobody: a queue whose disk hangs does not
// keep it.
func (s *server) Latencies(context.Context) (*control.Latencies, error) {
	all := s.keeper.figures()
	l := mergeFigures(all)
	l.Started, l.TookOver, l.TimedOneIn = s.took, !s.created, s.every
	return l, nil
}

// figures returns those of the queues that are there.
func (k *keeper) figures() []*figures {
	var all []*figures
	for i := range k.queues {
		if q := k.queues[i].Load(); q != nil {
			all = append(all, q.timing.figures)
		}
	}
	return all
}

func mergeFigures(all []*figures) *control.Latencies {
	l := &control.Latencies{Requests: []control.RequestLatency{}, Disks: []control.DiskLatency{},
		Errors: []control.DiskErrors{}, Depth: control.Depths{Counts: make([]uint64, depths)}}
	for op, name := range opNames {
		for way, path := range wayNames {
			if h, any := merged(all, func(f *figures) *latency.Histogram {
				return &f.requests[op][way]
			}); any {
				l.Requests = append(l.Requests, control.RequestLatency{Operation: name,
					Path: path, Histogram: h})
			}
		}
		for disk, where := range diskNames {
			if h, any := merged(all, func(f *figures) *latency.Histogram {
				return &f.disks[disk][op]
			}); any {
				l.Disks = append(l.Disks, control.DiskLatency{Disk: where, Operation: name,
					Histogram: h})
			}
			l.Errors = appendErrors(l.Errors, all, disk, op)
		}
	}
	for _, f := range all {
		l.Depth.Sum += f.depthSum.Load()
		for i := range f.depth {
			l.Depth.Counts[i] += f.depth[i].Load()
		}
	}
	return l
}

// merged is the sum of one histogram of all queues, and whether it has counted anything.
func merged(all []*figures, of func(*figures) *latency.Histogram) (h control.Histogram, any bool) {
	var sum latency.Sum
	for _, f := range all {
		sum.Merge(of(f))
	}
	h.SumNS = sum.Nanoseconds
	for i, n := range sum.Counts {
		if n > 0 {
			h.Buckets = append(h.Buckets, control.Bucket{Index: i, Count: n})
		}
	}
	return h, len(h.Buckets) > 0
}

func appendErrors(to []control.DiskErrors, all []*figures, disk, op int) []control.DiskErrors {
	for errno := range maxErrno + 1 {
		n := uint64(0)
		for _, f := range all {
			n += f.errors[disk][op][errno].Load()
		}
		if n == 0 {
			continue
		}
		cause := causeNames[remap.ClassPath] // of an operation that ended early
		if errno != 0 {
			cause = causeNames[remap.Classify(int32(errno))]
		}
		to = append(to, control.DiskErrors{Disk: diskNames[disk], Operation: opNames[op],
			Errno: errno, Cause: cause, Count: n})
	}
	return to
}
