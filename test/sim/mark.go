package sim

import (
	"ublkremap/metadata"
	"ublkremap/remap"
)

// marking is a list of bad blocks that an operator imports.
type marking struct {
	ranges []metadata.BlockRange
	home   map[uint64]bool // blocks that a commit has moved home since it was asked for
}

// has reports whether a block is listed.
func (m *marking) has(block uint64) bool {
	for _, r := range m.ranges {
		if block >= r.Block && block-r.Block < r.Count {
			return true
		}
	}
	return false
}

// mark imports a list. Once the answer has come, each of its blocks is known, also after a crash:
// it is pending or lost, or lives in the spare region, until a commit moves it home.
func (s *sim) mark(ranges ...metadata.BlockRange) error {
	sv := s.srv
	m := &marking{ranges: ranges, home: map[uint64]bool{}}
	sv.marks = append(sv.marks, m)
	err := sv.coord.Mark(ranges, metadata.CauseImport, func(r remap.MarkResult) {
		sv.marks = sv.marks[1:]
		s.stats.Marked += r.Marked
		s.tracef("  import ended: %+v", r)
		if r.Err == nil && r.Unknown == 0 {
			s.imported(m)
		}
	})
	if err != nil {
		sv.marks = sv.marks[:len(sv.marks)-1]
	}
	return err
}

// imported takes the end of an import.
func (s *sim) imported(m *marking) {
	for _, r := range m.ranges {
		for b := r.Block; b < r.Block+r.Count; b++ {
			if !m.home[b] {
				s.marked[b] = true
			}
		}
	}
}

// judgeMark makes sure that an import marks only what it lists, and what lives at home.
func (sv *server) judgeMark(e metadata.Entry, unit uint64) {
	s := sv.s
	info := sv.restored.Map.Unit(unit)
	for b := range s.per() {
		block := unit*s.per() + b
		switch {
		case e.Mask>>b&1 == 0:
		case len(sv.marks) == 0 || !sv.marks[0].has(block):
			s.failf("block %d is called bad by an import that does not list it", block)
		case info.Mapped()>>b&1 != 0:
			s.failf("block %d is called bad by an import, and lives in a spare unit", block)
		}
		sv.pending[block] = sv.pending[block] || e.Mask>>b&1 != 0
	}
}

// homeAgain notes that a commit moves blocks home.
func (sv *server) homeAgain(e metadata.Entry, unit uint64) {
	for b := range sv.s.per() {
		if e.Mask>>b&1 == 0 {
			continue
		}
		block := unit*sv.s.per() + b
		delete(sv.s.marked, block)
		for _, m := range sv.marks {
			m.home[block] = true
		}
	}
}

// inspectMarks makes sure that a table that was just loaded knows what imports have marked.
func (s *sim) inspectMarks(r *remap.Restored) {
	for b := range s.marked {
		info := r.Map.Unit(b / s.per())
		if (info.Mapped()|info.Pending|info.Lost)>>(b%s.per())&1 == 0 {
			s.failf("block %d was imported, and is not known after a restart", b)
		}
	}
}

// importSome imports a random list of blocks near each other.
func (s *sim) importSome() {
	at := s.near()
	var list []metadata.BlockRange
	for range 1 + s.rng.IntN(6) {
		if at >= s.plan.Blocks() {
			break
		}
		n := min(1+s.rng.Uint64N(s.per()*uint64(pick(s.rng, []int{1, 1, 4}))), s.plan.Blocks()-at)
		list = append(list, metadata.BlockRange{Block: at, Count: n})
		at += n + s.rng.Uint64N(2*s.per())
	}
	s.tracef("import %v: %v", list, s.mark(list...))
}
