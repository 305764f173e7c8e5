package remap

import "ublkremap/metadata"

// This file ends tests of homes that something else has seen fail meanwhile. A retest sees only its
// own operations. Between its two tests an operator's move may fail to write a home, a fill may
// fail to read it, or a heal may move blocks away from it. The tests that went well before that say
// nothing any more.

// homeFailed ends the test of blocks whose homes failed in an operation that is no retest's.
func (a *Arbiter) homeFailed(unit uint64, blocks uint8) {
	if plantedHomeForgotten {
		return
	}
	a.NoLongerWell(unit, blocks)
	if a.tested == nil {
		return
	}
	if p := a.tested.of(unit); p != nil {
		failed := p.asked & blocks
		p.asked &^= failed
		a.tested.failed += uint64(popcount(failed))
	}
}

// leftHome forgets the tests of blocks that leave their homes by a commit. They count as changed.
func (a *Arbiter) leftHome(e metadata.Entry) {
	if a.tested == nil || plantedHomeForgotten {
		return
	}
	for i := range uint64(e.Count) {
		p := a.tested.of(e.Unit + i)
		if p == nil {
			continue
		}
		info := a.m.Unit(e.Unit + i)
		gone := e.Mask &^ info.Mapped()
		p.written, p.copied, p.tested = p.written&^gone, p.copied&^gone, p.tested&^gone
	}
}

// EndTest says that no Move with Proofs follows for now.
func (a *Arbiter) EndTest() { a.tested = nil }

// TakeFailed returns how many blocks are no longer under test since the last call, because an
// operation that is not the test's has seen their homes fail.
func (p *Proofs) TakeFailed() (n uint64) {
	n, p.failed = p.failed, 0
	return n
}
