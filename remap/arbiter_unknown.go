package remap

import (
	"slices"

	"ublkremap/metadata"
)

// This file is about commits of unknown outcome: the record may be on the media, or not.

// outcomeUnknown takes entries whose record may or may not be on the media. After a restart their
// blocks may have the old data or the new. So the blocks answer errors, and their spare units are
// quarantined, until a later record about them is durable.
func (a *Arbiter) outcomeUnknown(entries []metadata.Entry) {
	a.recordEntries(metadata.EventUnknown, entries)
	for _, e := range entries {
		switch e.State {
		case metadata.StateMapped, metadata.StateHome:
			for i := range uint64(e.Count) {
				a.keepKnown(e.Unit+i, e.Mask)
			}
			lost := e
			lost.State, lost.Cause, lost.Spare = metadata.StateLost, metadata.CauseUnknown, 0
			a.m.Apply(lost)
		}
		a.unknown = append(a.unknown, e)
		if e.State == metadata.StateMapped {
			for i := range e.Count {
				a.holdSpare(e.Unit+uint64(i), e.Spare+i)
			}
		}
	}
	a.tripFor(TripMetadata, 0, "no metadata mirror on the backing disk takes a commit")
}

// keepKnown remembers the durable state of blocks before the Map calls them lost. Only readers of
// the Map may see them as lost. A checkpoint must have the durable state, or a restart would lose
// data that is still at its place.
func (a *Arbiter) keepKnown(unit uint64, mask uint8) {
	for _, e := range a.unknown {
		if (e.State == metadata.StateMapped || e.State == metadata.StateHome) && unit >= e.Unit &&
			unit-e.Unit < uint64(e.Count) {
			mask &^= e.Mask // it is in known already
		}
	}
	info := a.m.Unit(unit)
	cause, at := info.Cause, info.Time
	of := func(e metadata.Entry) bool { return e.Unit == unit }
	if i := slices.IndexFunc(a.known, of); i >= 0 {
		// The Map has the cause of an earlier such commit about the unit, which says nothing.
		cause, at = a.known[i].Cause, a.known[i].Time
	}
	say := func(state metadata.State, spare uint32, of uint8) {
		if of &= mask; of != 0 {
			a.known = append(a.known, metadata.Entry{
				Unit: unit, Spare: spare, Count: 1, Mask: of, State: state, Cause: cause, Time: at,
			})
		}
	}
	say(metadata.StateHome, 0, ^(info.Mapped() | info.Lost))
	for _, p := range info.Places[:info.N] {
		say(metadata.StateMapped, p.Spare, p.Mask)
	}
	say(metadata.StateLost, 0, info.Lost)
	say(metadata.StatePending, 0, info.Pending)
}

// holdSpare keeps a spare unit from being handed out, unless blocks live there.
func (a *Arbiter) holdSpare(unit uint64, spare uint32) {
	if info := a.m.Unit(unit); !holds(&info, spare) && a.alloc.IsUsed(spare) &&
		!a.alloc.FreeDeferred(spare) {
		must(a.alloc.DeferFree(spare, 1))
	}
}

// releaseSpare undoes holdSpare.
func (a *Arbiter) releaseSpare(spare uint32) {
	if a.alloc.FreeDeferred(spare) && !a.grace.isDeferred(spare) {
		must(a.alloc.Free(spare, 1))
		must(a.alloc.Take(spare, 1))
	}
}

// inDoubt reports whether a record of unknown outcome puts blocks into the
// spare unit, or takes them away from it.
func (a *Arbiter) inDoubt(spare uint32) bool {
	names := func(e metadata.Entry) bool {
		return e.State == metadata.StateMapped && spare >= e.Spare && spare-e.Spare < e.Count
	}
	return slices.ContainsFunc(a.unknown, names) || slices.ContainsFunc(a.known, names)
}
