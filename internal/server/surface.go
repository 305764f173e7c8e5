package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"

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
	out := &control.Surface{BlockSize: geo.BlockSize, SizeBlocks: geo.Blocks}
	var scrub coordinator.ScrubStatus
	var invalid error
	if err := s.keeper.call(ctx, func() {
		out.Regions = s.regions(s.keeper.coord.AppendMirrors(nil))
		scrub = s.keeper.coord.Scrub()
		if invalid = surfaceRange(out, from, to, cells); invalid == nil {
			out.Spares = s.spareCells(out)
		}
	}); err != nil {
		return nil, err
	}
	if invalid != nil {
		return nil, invalid
	}
	st := scrubStatus(&scrub, geo.BlockSize)
	out.Scrub = &control.SurfaceScrub{State: st.State, Position: st.Position, Started: st.Started,
		LastFinished: st.LastFinished}
	return out, surface(ctx, out, s.shared.Map())
}

// surfaceRange fills in what range a surface is of. SizeBlocks and Regions are filled in already.
func surfaceRange(out *control.Surface, from, to uint64, cells int) error {
	end := out.SizeBlocks
	if to == control.SurfaceEnd {
		to = end
	} else {
		for _, r := range out.Regions {
			if r.Backing {
				end = max(end, uint64(r.Start+r.Length)/uint64(out.BlockSize))
			}
		}
	}
	if from >= min(to, end) {
		return fmt.Errorf("%w: block %d: the device has %d", control.ErrInvalid, from,
			out.SizeBlocks)
	}
	// What was asked for says how large cells are, also where it goes beyond the end.
	out.PerCell = (to-from-1)/uint64(cells) + 1
	out.From, out.To = from, min(to, end)
	return nil
}

// surface fills in the cells of a range.
func surface(ctx context.Context, out *control.Surface, m *remap.Map) error {
	out.Cells = []control.SurfaceCell{}
	return m.Surface(out.From, out.To, out.PerCell, func(c remap.SurfaceCell) error {
		cell := control.SurfaceCell{Cell: c.Cell, Mapped: c.Mapped, Pending: c.Pending,
			Lost: c.Lost}
		if c.Time > 0 {
			cell.Time, cell.Cause = clock(c.Time), c.Cause.String()
		}
		out.Cells = append(out.Cells, cell)
		return ctx.Err()
	})
}

// spareCells counts the spare units that lie in the range. It runs on the keeper's goroutine, which
// the allocator belongs to; what it reads is three bits a unit, at most 1.5 MiB.
func (s *server) spareCells(out *control.Surface) []control.SurfaceSpares {
	var all []control.SurfaceSpares
	perUnit := uint64(metadata.UnitSize / out.BlockSize)
	regions := slices.Clone(s.image.Layout().SpareRegions())
	slices.SortFunc(regions, func(a, b metadata.Region) int {
		return cmp.Compare(a.Start, b.Start)
	})
	for _, r := range regions {
		start := uint64(r.Start) / uint64(out.BlockSize)
		end := start + uint64(r.Length/metadata.UnitSize)*perUnit
		if r.Device != 0 || start >= out.To || end <= out.From {
			continue
		}
		for at := max(start, out.From); at < min(end, out.To); {
			cell := (at - out.From) / out.PerCell
			next := min(out.From+(cell+1)*out.PerCell, end, out.To)
			lo, hi := (at-start)/perUnit, (next-start-1)/perUnit+1
			c := control.SurfaceSpares{Cell: cell, Units: hi - lo}
			c.Used, c.Bad = s.alloc.CountIn(uint64(r.First)+lo, uint64(r.First)+hi)
			if n := len(all); n > 0 && all[n-1].Cell == cell { // the end of another region
				all[n-1].Units += c.Units
				all[n-1].Used += c.Used
				all[n-1].Bad += c.Bad
			} else {
				all = append(all, c)
			}
			at = next
		}
	}
	return all
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
