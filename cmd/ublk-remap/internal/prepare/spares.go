package prepare

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"ublkremap/metadata"
)

// RemapFound gives spare units to the blocks of the displaced head and tail that were found to be
// bad. These units hold zeroes, as the good blocks beside them do. So these parts can be read,
// and mkfs, which may read a page before it writes a part of it, works. It returns how many blocks
// these are. If there are not enough good spare units, the other blocks stay pending.
//
// After a Scan all blocks that are known to be bad get spare units, so that the whole device can be
// read. If there are not enough good spare units, that is an error.
//
// The zeroes are durable, and were read back, before the metadata names their units. A power cut
// before that leaves no set.
func (p *Preparation) RemapFound(ctx context.Context) (blocks uint64, err error) {
	found := func(e metadata.Entry) bool {
		return e.State == metadata.StatePending && (p.scanned || e.Cause == metadata.CauseWrite)
	}
	need := 0
	for _, e := range p.bad.Entries {
		if found(e) {
			need += int(e.Count)
		}
	}
	var spares []uint32
	for next := uint64(0); len(spares) < need && next < p.plan.SpareUnits(); {
		var ask []uint32
		for ; len(ask) < need-len(spares) && next < p.plan.SpareUnits(); next++ {
			if !p.knownSpare(uint32(next)) {
				ask = append(ask, uint32(next))
			}
		}
		good, err := p.zeroSpares(ctx, ask)
		if err != nil {
			return 0, err
		}
		spares = append(spares, good...)
	}
	switch {
	case need == 0:
		return 0, nil
	case p.scanned && len(spares) < need:
		return 0, fmt.Errorf("%w: %d units are bad, and %d good spare units were found for them; "+
			"use a larger --spare or another disk", errSpares, need, len(spares))
	}
	// Spare units that turned out to be bad meanwhile are retired.
	if err := p.settle(); err != nil {
		return 0, err
	}
	var out []metadata.Entry
	for _, e := range p.bad.Entries {
		for found(e) && e.Count > 0 && len(spares) > 0 {
			out = append(out, metadata.Entry{Unit: e.Unit, Spare: spares[0], Count: 1, Mask: e.Mask,
				State: metadata.StateMapped, Cause: e.Cause, Time: e.Time})
			blocks += uint64(bits.OnesCount8(e.Mask))
			spares, e.Unit, e.Count = spares[1:], e.Unit+1, e.Count-1
		}
		if e.Count > 0 {
			out = append(out, e)
		}
	}
	p.bad.Entries, p.bad.Blocks = out, p.bad.Blocks-blocks
	return blocks, metadata.CheckInitial(p.plan, out)
}

// knownSpare reports whether a spare unit is known to be bad.
func (p *Preparation) knownSpare(unit uint32) bool {
	return slices.ContainsFunc(p.bad.Entries, func(e metadata.Entry) bool {
		return e.State == metadata.StateRetired && e.Spare <= unit && unit < e.Spare+e.Count
	})
}

// zeroSpares returns which of the spare units hold zeroes now.
func (p *Preparation) zeroSpares(ctx context.Context, units []uint32) (good []uint32, err error) {
	byPlace := map[uint8]map[int64]uint32{}
	for _, u := range units {
		dev, off := p.plan.SpareOf(u)
		if byPlace[dev] == nil {
			byPlace[dev] = map[int64]uint32{}
		}
		byPlace[dev][off] = u
	}
	for dev, places := range byPlace {
		var offs []int64
		for off := range places {
			offs = append(offs, off)
		}
		slices.Sort(offs)
		held, err := p.disks[dev].Zero(ctx, offs)
		if err != nil {
			return nil, err
		}
		for _, off := range held {
			good = append(good, places[off])
		}
	}
	slices.Sort(good)
	return good, nil
}
