package server

import (
	"context"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// Surface sums the remap table up, cell by cell. Readers and writers of the table do not wait for
// it.
func (s *server) Surface(ctx context.Context, from, to uint64, cells int) (*control.Surface,
	error) {
	geo := s.shared.Geometry()
	if from >= geo.Blocks {
		return nil, fmt.Errorf("%w: block %d: the device has %d", control.ErrInvalid, from,
			geo.Blocks)
	}
	var mirrors []metadata.MirrorStatus
	var scrub coordinator.ScrubStatus
	if err := s.keeper.call(ctx, func() {
		mirrors = s.keeper.coord.AppendMirrors(nil)
		scrub = s.keeper.coord.Scrub()
	}); err != nil {
		return nil, err
	}
	st := scrubStatus(&scrub, geo.BlockSize)
	out := &control.Surface{BlockSize: geo.BlockSize, SizeBlocks: geo.Blocks,
		Regions: s.regions(mirrors), Scrub: &control.SurfaceScrub{State: st.State,
			Position: st.Position, Started: st.Started, LastFinished: st.LastFinished}}
	err := surface(ctx, out, s.shared.Map(), from, to, cells)
	return out, err
}

// surface fills in the cells of a range.
func surface(ctx context.Context, out *control.Surface, m *remap.Map, from, to uint64,
	cells int) error {
	if to == control.SurfaceEnd {
		to = out.SizeBlocks
	}
	// What was asked for says how large cells are, also where it goes beyond the end.
	out.PerCell = (to-from-1)/uint64(cells) + 1
	out.From, out.To = from, min(to, out.SizeBlocks)
	out.Cells = []control.SurfaceCell{}
	return m.Surface(from, out.To, out.PerCell, func(c remap.SurfaceCell) error {
		cell := control.SurfaceCell{Cell: c.Cell, Mapped: c.Mapped, Pending: c.Pending, Lost: c.Lost}
		if c.Time > 0 {
			cell.Time, cell.Cause = clock(c.Time), c.Cause.String()
		}
		out.Cells = append(out.Cells, cell)
		return ctx.Err()
	})
}

// regions lists what the disks hold beside data.
func (s *server) regions(mirrors []metadata.MirrorStatus) []control.SurfaceRegion {
	all := []control.SurfaceRegion{}
	add := func(kind string, device uint8, start, length int64, state string) {
		all = append(all, control.SurfaceRegion{Kind: kind, Device: s.set.Devices[device].Path(),
			Backing: device == 0, Start: start, Length: length, State: state})
	}
	layout := s.image.Layout()
	sb := layout.Superblock()
	if sb.HeadBytes > 0 {
		add(control.RegionHead, 0, 0, sb.HeadBytes, "")
	}
	for i := range s.set.Devices {
		for _, at := range layout.SuperblockPlaces(uint8(i)) {
			add(control.RegionSuperblock, uint8(i), at, metadata.PageSize, "")
		}
	}
	for _, m := range mirrors {
		add(metadata.RegionMirror.String(), m.Device, m.Start, m.Length, string(m.State))
	}
	for _, r := range sb.Regions {
		if r.Kind != metadata.RegionMirror { // those move, and may grow
			add(r.Kind.String(), r.Device, r.Start, r.Length, "")
		}
	}
	return all
}
