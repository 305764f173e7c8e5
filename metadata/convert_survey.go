package metadata

import "math/bits"

// Survey is what a revert would do.
type Survey struct {
	Moves   uint64       // blocks outside of the head to be moved home
	Head    uint64       // blocks of the head to be moved to the front
	Tail    uint64       // blocks of the displaced tail to be moved to the end
	Pending uint64       // blocks that cannot be read at home, before and after
	NoCopy  []BlockRange // blocks that have no copy that can be read
	More    uint64       // how many others have none, which were too many to list
	// those of them whose home can be read; with AcceptOld they are accepted, and not in NoCopy
	Old []BlockRange
}

// SurveyRevert reads all that a revert would move, and writes nothing.
// Errors: those of Image.Table.
func SurveyRevert(img *Image, o ConvertOptions) (*Survey, error) {
	v, err := NewView(img)
	if err != nil {
		return nil, err
	}
	s := v.survey(&o)
	v.findOld(s, o.AcceptOld)
	return s, orPathFailure(img.devs, nil)
}

func (v *View) survey(o *ConvertOptions) *Survey {
	s := &Survey{Head: v.layout.headBlocks, Tail: v.layout.TailBlocks()}
	var noCopy blockList
	var done, total int64
	for _, f := range v.layout.sb.displacedSpans() {
		total += f.to - f.from
	}
	for _, f := range v.layout.sb.displacedSpans() {
		inChunks(o.chunk(), f, func(buf []byte, off int64) {
			v.read(buf, off, func(block uint64, _ error) { noCopy.add(block) })
			if done += int64(len(buf)); o.Progress != nil {
				o.Progress(done, total)
			}
		})
	}
	var unread blockList
	v.mapped(func(block uint64, spare uint32) {
		if v.layout.displaced(block) {
			return
		}
		d, at := v.slot(block, spare)
		if _, err := v.devs[d].ReadAt(v.one, at); err == nil {
			s.Moves++
		} else {
			unread.add(block)
		}
	})
	lost := v.lost()
	s.NoCopy, s.More = mergeRanges(noCopy.ranges, unread.ranges, lost.ranges),
		noCopy.more+unread.more+
			lost.more
	v.table.Extents(func(x Extent) bool {
		s.Pending += x.Count * uint64(bits.OnesCount8(x.Pending&^(x.Mapped|x.Lost)))
		return true
	})
	return s
}
