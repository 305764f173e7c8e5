package remap

import (
	"math/bits"
	"time"

	"ublkremap/metadata"
)

// This file tells the flight recorder what became of heals and reports. It tells it after the fact,
// and nothing waits for it.

// recordClaim tells what became of the blocks of a claim.
func (a *Arbiter) recordClaim(kind metadata.EventKind, done metadata.EventDone, c *claim) {
	if a.cfg.Record == nil {
		return
	}
	m := &c.msg
	per := a.geo.BlocksPerUnit()
	first := m.First & uint8(1<<per-1)
	e := metadata.Event{Kind: kind, Done: done, Errno: uint16(-m.Errno), HasBlock: true,
		Block: m.Unit*per + uint64(bits.TrailingZeros8(first|1<<7)), Count: a.blocksOf(m)}
	if kind == metadata.EventRemap {
		e.Detail = uint64(c.spare)
	}
	if m.Since != 0 {
		e.HasLatency = true
		e.Latency = metadata.Micros(time.Duration(a.drv.Now() - m.Since))
	}
	a.cfg.Record(&e)
}

// blocksOf returns how many blocks a message is about.
func (a *Arbiter) blocksOf(m *Message) uint32 {
	per := uint32(a.geo.BlocksPerUnit())
	full := uint8(1<<per - 1)
	n := uint32(bits.OnesCount8(m.First & full))
	if m.Count > 1 {
		n += uint32(bits.OnesCount8(m.Last&full)) + (m.Count-2)*per
	}
	return n
}

// recordEntries tells of entries whose outcome is not known, or of spare units that are retired.
func (a *Arbiter) recordEntries(kind metadata.EventKind, entries []metadata.Entry) {
	if a.cfg.Record == nil {
		return
	}
	per := a.geo.BlocksPerUnit()
	for i := range entries {
		e := &entries[i]
		event := metadata.Event{Kind: kind, Count: e.Count, Detail: uint64(e.Spare)}
		if !e.State.OfSpare() {
			event.HasBlock, event.Block = true, e.Unit*per+uint64(bits.TrailingZeros8(e.Mask|1<<7))
			event.Count *= uint32(bits.OnesCount8(e.Mask))
		}
		a.cfg.Record(&event)
	}
}

// recordRetired tells of the spare units that a heal took out of service.
func (a *Arbiter) recordRetired(entries []metadata.Entry) {
	for i := range entries {
		if entries[i].State == metadata.StateRetired {
			a.recordEntries(metadata.EventRetired, entries[i:i+1])
		}
	}
}
