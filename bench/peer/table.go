package peer

import (
	"context"
	"fmt"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// Table is a remap table that a device of ublk-remap starts with.
type Table struct {
	// Remaps is how many units of 4 KiB live in the spare region.
	Remaps int64
	// First and Every say which: First, First+Every, …
	First, Every int64
}

// spareStride scatters the spare units: no two remapped units that follow each other
// have spare units in a row, as after many single heals. It is odd and no
// multiple of 5, and so without a common divisor with any number of spare units that
// spareUnits makes.
const spareStride = 7919

// spareUnits is the size of the spare region in units: a power of two that holds all.
func (t Table) spareUnits() int64 {
	n := int64(1 << 10)
	for n < t.Remaps {
		n *= 2
	}
	return n
}

// Bytes is how large the backing must be to export at least n bytes. The table's
// last unit is among them.
func (t Table) Bytes(n int64) int64 {
	n = max(n, (t.First+t.Remaps*t.Every+1)*metadata.UnitSize)
	n += t.spareUnits() * metadata.UnitSize
	// Metadata and the room for moving it: more than it needs.
	return (n + n/50 + 64<<20 + 1<<20 - 1) >> 20 << 20
}

// entries are what the metadata says of the table. perUnit is the number of
// blocks of a unit.
func (t Table) entries(perUnit int) []metadata.Entry {
	spares := t.spareUnits()
	now := metadata.Seconds(time.Now())
	out := make([]metadata.Entry, 0, t.Remaps)
	for i := range t.Remaps {
		out = append(out, metadata.Entry{
			State: metadata.StateMapped, Unit: uint64(t.First + i*t.Every),
			Spare: uint32(i * spareStride % spares),
			Count: 1, Mask: uint8(1<<perUnit - 1), Cause: metadata.CauseWrite, Time: now,
		})
	}
	return out
}

// write prepares a disk as create does, but with a table in it: healing a million
// blocks one by one would take hours.
func (t Table) write(ctx context.Context, path, name string) error {
	d, err := blockdev.Open(ctx, path, blockdev.Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	g := d.Geometry()
	plan, err := metadata.Plan(metadata.PlanParams{
		BackingSize: d.Size(), BlockSize: g.LogicalBlock, PhysicalBlockSize: g.PhysicalBlock,
		SpareBytes: t.spareUnits() * metadata.UnitSize, Name: name,
		Created: metadata.Seconds(time.Now()),
	})
	if err != nil {
		return err
	}
	if have, want := int64(plan.Blocks())*int64(plan.BlockSize()),
		(t.First+t.Remaps*t.Every)*metadata.UnitSize; have < want {
		return fmt.Errorf("%s: the device would have %d bytes, the table needs %d", path, have,
			want)
	}
	return metadata.Create([]metadata.Device{d}, plan, t.entries(metadata.UnitSize/g.LogicalBlock))
}
