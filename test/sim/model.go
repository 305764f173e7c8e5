package sim

import (
	"fmt"
	"slices"
	"strings"

	"ublkremap/remap"
)

// value is something that a sector may hold.
type value struct {
	id uint64
	// end is when the write of it was answered. A write that began later and succeeded has replaced
	// the value.
	end int64
	// kept is when it was found that the value may be there again, because a cache was dropped.
	// Only a write that was durable by itself has replaced it before that time.
	kept int64
	// over is when the first write that replaced it was answered, 0 for never. A flush that began
	// later makes the value impossible after a power cut.
	over int64
}

// sector is what one exported sector may hold: what a read may return now, and what may be found
// after a power cut. Writes under way are not included.
type sector struct {
	cur, media []value
}

// model says what each exported sector may hold, by the rules of a disk with
// a volatile cache, sector by sector:
//
//   - a write that was answered with success is there, unless one that did not
//     end before it began has replaced it;
//   - a write that failed, or is under way, is there or not. Once a read has shown
//     which, this stays so;
//   - a power cut leaves what was there at the last flush, or anything written since;
//   - a FUA write is there after a power cut, with the same exception.
//
// Its clock counts events.
type model struct {
	sectors []*sector // nil: never written
	touched []uint64
	unsure  []uint64 // sectors with more than one value on the media; may hold stale entries
	clock   int64
	reads   []*userReq
	writes  []*userReq
}

func newModel(sectors uint64) *model { return &model{sectors: make([]*sector, sectors)} }

func (m *model) at(i uint64) *sector {
	s := m.sectors[i]
	if s == nil {
		s = &sector{cur: []value{{id: valueInitial}}, media: []value{{id: valueInitial}}}
		m.sectors[i] = s
		m.touched = append(m.touched, i)
	}
	return s
}

func (m *model) tick() int64 {
	m.clock++
	return m.clock
}

// begin notes that a request was handed to the device.
func (m *model) begin(r *userReq) {
	r.start = m.tick()
	switch r.Op {
	case remap.OpRead:
		r.allowed = make([][]uint64, r.sectors())
		r.raced = make([]bool, r.sectors())
		for i := range r.allowed {
			if s := m.sectors[r.first()+uint64(i)]; s == nil {
				r.allowed[i] = initialOnly
			} else {
				for _, v := range s.cur {
					r.allowed[i] = append(r.allowed[i], v.id)
				}
			}
		}
		for _, w := range m.writes {
			r.meets(w)
		}
		m.reads = append(m.reads, r)
	case remap.OpFlush:
	default:
		for i := r.first(); i < r.first()+r.sectors(); i++ {
			m.at(i)
		}
		for _, rd := range m.reads {
			rd.meets(r)
		}
		m.writes = append(m.writes, r)
	}
}

var initialOnly = []uint64{valueInitial}

// meets allows a read to see what a write writes that is under way at the same time.
func (r *userReq) meets(w *userReq) {
	lo, hi := max(r.first(), w.first()), min(r.first()+r.sectors(), w.first()+w.sectors())
	for i := lo; i < hi; i++ {
		a := &r.allowed[i-r.first()]
		*a = append(slices.Clip(*a), w.value())
		r.raced[i-r.first()] = true
	}
}

func remove(list []*userReq, r *userReq) []*userReq {
	if i := slices.Index(list, r); i >= 0 {
		list[i] = list[len(list)-1]
		list = list[:len(list)-1]
	}
	return list
}

// wrote notes the answer to a write, write-zeroes or discard. A discard leaves old data or zeroes,
// so it counts as failed.
func (m *model) wrote(r *userReq, ok bool) {
	now := m.tick()
	m.writes = remove(m.writes, r)
	ok = ok && r.Op != remap.OpDiscard
	for i := r.first(); i < r.first()+r.sectors(); i++ {
		s := m.at(i)
		if ok {
			s.cur = slices.DeleteFunc(s.cur, func(v value) bool {
				return v.end < r.start &&
					(r.FUA || v.kept < r.start)
			})
			if r.FUA {
				s.media = slices.DeleteFunc(s.media, func(v value) bool { return v.end < r.start })
			}
			for k := range s.media {
				if v := &s.media[k]; v.over == 0 && max(v.end, v.kept) < r.start {
					v.over = now
				}
			}
		}
		s.cur = append(s.cur, value{id: r.value(), end: now})
		s.media = append(s.media, value{id: r.value(), end: now})
		if len(s.media) == 2 {
			m.unsure = append(m.unsure, i)
		}
	}
}

// flushed notes a flush that succeeded.
func (m *model) flushed(r *userReq) {
	m.tick()
	kept := m.unsure[:0]
	for _, i := range m.unsure {
		s := m.sectors[i]
		s.media = slices.DeleteFunc(s.media, func(v value) bool {
			return v.over != 0 &&
				v.over < r.start
		})
		if len(s.media) > 1 {
			kept = append(kept, i)
		}
	}
	m.unsure = kept
}

// read checks the content that a read returned; homes gives a sector's home.
func (m *model) read(r *userReq, homes func(uint64) place) error {
	now := m.tick()
	m.reads = remove(m.reads, r)
	for k := range r.allowed {
		if r.unread != nil && r.unread[uint64(k)/r.perBlock] {
			continue
		}
		i := r.first() + uint64(k)
		got, err := identify(r.buf[k*sectorSize:], i, homes(i))
		if err == nil && !slices.Contains(r.allowed[k], got) {
			err = fmt.Errorf("%s, may be %s", valueName(got), names(r.allowed[k]))
		}
		if err != nil {
			return fmt.Errorf("sector %d (block %d) reads %w", i, i/r.perBlock, err)
		}
		if r.raced[k] || m.sectors[i] == nil {
			continue
		}
		m.settle(m.sectors[i], got, now)
	}
	return nil
}

// settle notes that a sector was seen to hold a value while nobody wrote to it.
func (m *model) settle(s *sector, got uint64, now int64) {
	if len(s.cur) == 1 {
		return
	}
	s.cur = slices.DeleteFunc(s.cur, func(v value) bool { return v.id != got })
	for k := range s.media {
		if v := &s.media[k]; v.id != got && v.over == 0 {
			v.over = now
		}
	}
}

// cut notes a power cut. What was under way may be lost, and so may what was not flushed.
func (m *model) cut() {
	now := m.tick()
	for _, w := range m.writes {
		for i := w.first(); i < w.first()+w.sectors(); i++ {
			s := m.at(i)
			s.media = append(s.media, value{id: w.value(), end: now})
		}
	}
	m.reads, m.writes, m.unsure = nil, nil, m.unsure[:0]
	for _, i := range m.touched {
		s := m.sectors[i]
		kept := s.media[:0]
		for _, v := range s.media {
			if !slices.ContainsFunc(kept, func(o value) bool { return o.id == v.id }) {
				kept = append(kept, value{id: v.id, end: now})
			}
		}
		s.media = kept
		s.cur = slices.Clone(kept)
		if len(kept) > 1 {
			m.unsure = append(m.unsure, i)
		}
	}
}

// dropped notes that a disk has dropped its cache when a flush failed. Each sector may again hold
// anything that it could hold after a power cut, and whatever it holds may be durable. A drive that
// does this says so only by the failed flush. A write that is under way may be among what was lost.
func (m *model) dropped() {
	now := m.tick()
	sectors := slices.Clone(m.unsure)
	for _, w := range m.writes {
		for i := w.first(); i < w.first()+w.sectors(); i++ {
			sectors = append(sectors, i)
		}
	}
	slices.Sort(sectors)
	for _, i := range slices.Compact(sectors) {
		s := m.at(i)
		for k := range s.media {
			s.media[k].kept, s.media[k].over = now, 0
		}
		s.cur = slices.Clone(s.media)
		for _, r := range m.reads {
			if i >= r.first() && i < r.first()+r.sectors() {
				k := i - r.first()
				for _, v := range s.cur {
					r.allowed[k] = append(slices.Clip(r.allowed[k]), v.id)
				}
				r.raced[k] = true
			}
		}
	}
}

// clone returns a copy that shares only requests; renamed translates these.
func (m *model) clone(renamed func(*userReq) *userReq) *model {
	c := &model{sectors: make([]*sector, len(m.sectors)), touched: slices.Clone(m.touched),
		unsure: slices.Clone(m.unsure), clock: m.clock}
	for _, i := range m.touched {
		s := m.sectors[i]
		c.sectors[i] = &sector{cur: slices.Clone(s.cur), media: slices.Clone(s.media)}
	}
	for _, r := range m.reads {
		c.reads = append(c.reads, renamed(r))
	}
	for _, r := range m.writes {
		c.writes = append(c.writes, renamed(r))
	}
	return c
}

// may reports whether a sector may hold a value while nothing is under way.
func (m *model) may(i, id uint64) bool {
	if m.sectors[i] == nil {
		return id == valueInitial
	}
	return slices.ContainsFunc(m.sectors[i].cur, func(v value) bool { return v.id == id }) ||
		slices.ContainsFunc(m.writes, func(w *userReq) bool {
			return w.value() == id && w.first() <= i && i < w.first()+w.sectors()
		})
}

func valueName(id uint64) string {
	switch id {
	case valueZero:
		return "zeroes"
	case valueInitial:
		return "what was there at first"
	}
	return fmt.Sprintf("write %d", id)
}

func names(ids []uint64) string {
	var out []string
	for _, id := range ids {
		out = append(out, valueName(id))
	}
	return strings.Join(out, " or ")
}
