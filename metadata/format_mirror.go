package metadata

// mirrorAt is where one mirror lies.
//
//	| header A | pages ... | header B | pages ... | log: one record per atom ... |
//	'------ slot 0 -------'-------- slot 1 ------'
//
// A header has the first atom of its slot to itself.
type mirrorAt struct {
	region int // index into Superblock.Regions
	device uint8
	start  int64
	atom   int64
	slot   int64 // bytes of a slot
	atoms  int   // log records
}

func (l *Layout) mirrorsAt() []mirrorAt {
	out := make([]mirrorAt, 0, len(l.mirrors))
	for _, i := range l.mirrors {
		r := &l.sb.Regions[i]
		out = append(out, mirrorAt{
			region: i, device: r.Device, start: r.Start, atom: int64(l.sb.AtomSize),
			slot: l.sb.MirrorSlot(r), atoms: int(l.sb.LogBytes / int64(l.sb.AtomSize)),
		})
	}
	return out
}

func (m *mirrorAt) headerOffset(slot int) int64 { return m.start + int64(slot)*m.slot }

func (m *mirrorAt) pageOffset(slot int, page uint32) int64 {
	return m.headerOffset(slot) + m.atom + int64(page)*PageSize
}

func (m *mirrorAt) logOffset(atom int) int64 { return m.start + 2*m.slot + int64(atom)*m.atom }

// pages is how many pages a slot holds.
func (m *mirrorAt) pages() uint32 { return uint32(min((m.slot-m.atom)/PageSize, 1<<32-1)) }
