package sim

import (
	"slices"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// filling is a fill that an operator has asked for: bad blocks get what a backup has of them. For
// the model, a block that is filled is written at the moment of the commit. At that moment the
// block must be pending or lost, and busy, and no write of a user to it may be under way. So no
// value that a user has written and that reads is ever replaced.
type filling struct {
	move remap.Move
	id   uint64
	// unread are sectors, by their place on the disks, that a relocation has failed to read since
	// the fill was asked for.
	unread map[place]bool
	// writes are the blocks that commits are about, from then to the end of the fill.
	writes []*userReq
}

// fill asks for blocks to be filled.
func (s *sim) fill(block, count uint64) error {
	f := &filling{id: s.nextID, unread: map[place]bool{}}
	s.nextID++
	bs := uint64(s.plan.BlockSize())
	data := make([]byte, count*bs)
	for at := uint64(0); at < uint64(len(data)); at += sectorSize {
		putData(data[at:], (block*bs+at)/sectorSize, f.id)
	}
	f.move = remap.Move{Block: block, Count: count, Cause: metadata.CauseOperator,
		Fill: &remap.Fill{Data: data, Outcome: make([]remap.FillOutcome, count)}}
	return s.srv.begin(f.move, f)
}

// unreadBy notes what an operation of a relocation could not read, to the physical block.
func (sv *server) unreadBy(io *diskIO, res int32) {
	if io.kind != ioRead || res >= 0 || remap.Classify(res) != remap.ClassMedium {
		return
	}
	size := int64(max(sv.s.plan.BlockSize(), sv.s.cfg.plan.PhysicalBlockSize))
	for _, f := range sv.queued {
		if f == nil {
			continue
		}
		for off := io.off - io.off%size; off < (io.off+io.n+size-1)/size*size; off += sectorSize {
			f.unread[place{io.d.index, off}] = true
		}
	}
}

// judgeFill makes sure that a fill may replace what an entry is about.
func (sv *server) judgeFill(f *filling, e metadata.Entry) {
	s := sv.s
	per := s.per()
	for i := range uint64(e.Count) {
		info := sv.restored.Map.Unit(e.Unit + i)
		for b := range per {
			if e.Mask>>b&1 == 0 {
				continue
			}
			block := (e.Unit+i)*per + b
			p := s.home(block * uint64(s.plan.BlockSize()/sectorSize))
			if spare, ok := info.SpareOf(int(b)); ok {
				dev, off := s.plan.SpareOf(spare)
				p = place{dev, off + int64(b)*int64(s.plan.BlockSize())}
			}
			switch {
			case (info.Pending|info.Lost)>>b&1 == 0:
				s.failf("block %d is filled, and is neither pending nor lost", block)
			case !info.Busy:
				s.failf("block %d is filled, and is not busy", block)
			case info.Lost>>b&1 == 0 && !f.unread[p]:
				s.failf("block %d is filled, and nobody has tried to read it", block)
			}
			for _, io := range s.ios {
				if io.req != nil && io.kind != ioRead && io.kind != ioFlush &&
					io.d.index == p.disk && io.off < p.off+int64(s.plan.BlockSize()) &&
					p.off < io.off+io.n {
					s.failf("block %d is filled while %v is under way", block, io)
				}
			}
			f.write(s, block)
		}
	}
}

// write begins the write of a block that a fill is, for the model.
func (f *filling) write(s *sim, block uint64) {
	r := &userReq{id: f.id, perBlock: uint64(s.plan.BlockSize() / sectorSize), begun: s.step,
		Request: remap.Request{Op: remap.OpWrite, FUA: true, Block: block, Count: 1}}
	s.model.begin(r)
	f.writes = append(f.writes, r)
	s.fills = append(s.fills, r)
}

// filled takes the end of a fill.
func (sv *server) filled(f *filling) {
	s := sv.s
	for i, o := range f.move.Fill.Outcome {
		block := f.move.Block + uint64(i)
		begun := slices.ContainsFunc(f.writes, func(r *userReq) bool { return r.Block == block })
		if done := o == remap.FillDone; done && !begun {
			s.failf("block %d counts as filled, and no commit was about it", block)
		} else if done {
			s.stats.Filled++
		}
	}
	for _, r := range f.writes {
		s.model.wrote(r, f.move.Fill.Outcome[r.Block-f.move.Block] == remap.FillDone)
		s.fills = remove(s.fills, r)
	}
}

// endFills ends the fills that a server leaves behind: their blocks hold either of two values.
func (s *sim) endFills() {
	for _, r := range s.fills {
		if slices.Contains(s.model.writes, r) {
			s.model.wrote(r, false)
		}
	}
	s.fills = nil
}
