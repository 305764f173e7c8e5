package sim

import (
	"maps"
	"math/rand/v2"
)

// fork returns a run that continues from the same moment by itself. It has its own disks, model and
// users, and no server. What is under way on the disks is under way in the fork too, so that a cut
// or a kill can end it. The original must wait until the fork has finished with that.
func (s *sim) fork(stream uint64) *sim {
	c := *s
	c.stream = rand.NewPCG(s.seed, stream)
	c.rng = rand.New(c.stream)
	c.stats = Stats{}
	c.scrubbing = s.scrubbing.fork()
	c.marked = maps.Clone(s.marked)
	c.withheld, c.readerHeld = nil, false
	c.srv, c.pool, c.atWrite, c.past, c.lateWrites = nil, nil, nil, nil, nil
	c.disks = make([]*disk, len(s.disks))
	for i, d := range s.disks {
		c.disks[i] = d.fork()
	}
	renamed := map[*userReq]*userReq{}
	rename := func(r *userReq) *userReq {
		if renamed[r] == nil {
			own := *r
			own.buf = append([]byte(nil), r.buf...)
			own.errnos = append([]int32(nil), r.errnos...)
			own.raced = append([]bool(nil), r.raced...)
			own.read, own.bad = append([]bool(nil), r.read...), append([]bool(nil), r.bad...)
			own.badOn = append([]uint8(nil), r.badOn...)
			own.reached = maps.Clone(r.reached)
			own.allowed = append([][]uint64(nil), r.allowed...)
			renamed[r] = &own
		}
		return renamed[r]
	}
	c.reqs = make([][]*userReq, len(s.reqs))
	for q, tags := range s.reqs {
		c.reqs[q] = make([]*userReq, len(tags))
		for i, r := range tags {
			if r != nil {
				c.reqs[q][i] = rename(r)
			}
		}
	}
	c.fills = nil
	for _, r := range s.fills {
		c.fills = append(c.fills, rename(r))
	}
	if s.model != nil {
		c.model = s.model.clone(rename)
	}
	c.ios = make([]*diskIO, len(s.ios))
	for i, io := range s.ios {
		own := *io
		own.d = c.disks[io.d.index]
		if io.kind == ioRead {
			own.data = make([]byte, len(io.data)) // the original's buffer has an owner
		}
		c.ios[i] = &own
	}
	c.media = media{reads: maps.Clone(s.media.reads), writes: maps.Clone(s.media.writes),
		verified: maps.Clone(s.media.verified), cached: maps.Clone(s.media.cached),
		tests: map[place]*homeTest{}}
	for p, t := range s.media.tests {
		own := *t
		c.media.tests[p] = &own
	}
	return &c
}
