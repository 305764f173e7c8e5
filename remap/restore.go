package remap

import (
	"fmt"

	"ublkremap/metadata"
)

// Restored is the live state of a device, rebuilt from its metadata: what
// NewShared and NewArbiter are made of.
type Restored struct {
	Geometry  Geometry
	Map       *Map
	Allocator *Allocator
}

// GeometryOf translates a layout.
func GeometryOf(l *metadata.Layout) Geometry {
	g := Geometry{
		BlockSize: l.BlockSize(), Blocks: l.Blocks(), HeadBlocks: l.HeadBlocks(),
		Devices: len(l.Devices()),
	}
	// No two records share a physical block. So the physical block was no larger than the atom when
	// the set was made. An atom of one page says nothing, because records are never smaller.
	if atom := int(l.Superblock().AtomSize); atom > metadata.PageSize {
		g.PhysicalBlock = atom
	}
	if g.HeadBlocks > 0 {
		g.HeadDevice, g.HeadOffset = l.HomeOf(0)
	}
	if g.TailBlocks = l.TailBlocks(); g.TailBlocks > 0 {
		g.TailDevice, g.TailOffset = l.HomeOf(g.Blocks - g.TailBlocks)
	}
	g.TableCapacity = l.TableCapacity()
	for i := range l.Devices() {
		g.Known = append(g.Known, l.SuperblockPlaces(uint8(i)))
	}
	for _, r := range l.SpareRegions() {
		g.Spares = append(g.Spares, SpareExtent{
			First: r.First, Count: uint32(r.Length / metadata.UnitSize), Device: r.Device,
			Offset: r.Start,
		})
	}
	return g
}

// Restore rebuilds the map and the allocator of a set. replay calls its
// argument with every entry of the checkpoint and the log, in order, as
// metadata.Image.Replay does. An error of replay is passed on; it wraps
// metadata.ErrDamaged if two units claim one spare unit.
func Restore(l *metadata.Layout, replay func(func(metadata.Entry) error) error) (*Restored, error) {
	r := &Restored{Geometry: GeometryOf(l)}
	regions := make([]SpareRegion, len(r.Geometry.Spares))
	for i, e := range r.Geometry.Spares {
		regions[i] = SpareRegion{First: e.First, Count: e.Count}
	}
	var err error
	if r.Allocator, err = NewAllocator(regions); err != nil {
		return nil, err
	}
	b := NewBuilder(l.Units(), int(r.Geometry.BlocksPerUnit()))
	err = replay(func(e metadata.Entry) error {
		if !e.State.OfSpare() {
			b.Apply(e)
		}
		return r.Allocator.Apply(e)
	})
	r.Map = b.Map()
	if err != nil {
		return nil, err
	}
	if err := r.Allocator.TakeMap(r.Map); err != nil {
		return nil, fmt.Errorf("%w: %w", metadata.ErrDamaged, err)
	}
	r.Geometry.Density = metadata.DensityFor(l, func(d metadata.Density) metadata.Source {
		return table{m: r.Map, alloc: r.Allocator, density: d}
	})
	return r, nil
}
