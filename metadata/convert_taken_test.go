package metadata

import (
	"bytes"
	"slices"
	"testing"
)

// elsewhere is what an old disk holds in the place of what another program has put elsewhere.
const elsewhere = 0xee

// TestConvertTaken converts a disk of which another program has blocks elsewhere, in the head,
// behind it and in the tail, and cuts at every write. The set shows those; an old disk that is left
// has the rest as it was.
func TestConvertTaken(t *testing.T) {
	for _, i := range []int{0, 4} {
		tc := sceneParams[i]
		t.Run(tc.name, func(t *testing.T) { convertTaken(t, tc, uint64(i)) })
	}
}

func convertTaken(t *testing.T, tc sceneCase, seed uint64) {
	s := newScene(t, tc.p, seed)
	s.thorough()
	if !full() { // there are few cuts, and each must be able to leave either disk
		s.quick, s.fates = false, []int{fateLost, fateKept, fateRandom}
	}
	s.opts.Force = true
	s.taken = map[uint64]bool{}
	pages := []int64{0, 1, 3, 30, s.plan().sb.HeadBytes/PageSize + 1, s.size/PageSize - 1}
	for i, page := range pages {
		s.dirty[page] = true
		for k := int64(0); k < PageSize; k += s.block * 3 {
			off := page*PageSize + k
			b := Taken{Block: uint64(off / s.block)}
			b.Data = bytes.Clone(s.expect(b.Block))
			if i == 3 {
				b.Data, s.lost[b.Block] = nil, true
			} else {
				s.taken[b.Block] = true
			}
			s.opts.Taken = append(s.opts.Taken, b)
			s.disks[0].poke(bytes.Repeat([]byte{elsewhere}, int(s.block)), off)
		}
	}
	slices.SortFunc(s.opts.Taken, func(a, b Taken) int { return int(a.Block) - int(b.Block) })
	s.cutEvery(s.disks, false, 1, "convert")
	if s.plain == 0 || s.sets == 0 {
		t.Errorf("%d cuts left the old disk, %d the set", s.plain, s.sets)
	}
}
