package metadata

import "fmt"

// UnitSize is the size in bytes of a unit: what spares are allocated in and
// what the remap table is keyed by. It is frozen with format version 4.
const UnitSize = 4096

// State says where the blocks of an Entry live from this entry on. Each entry
// is absolute for the blocks in its mask and silent about all others, so that
// replaying a sequence of entries twice gives the same table as replaying it
// once. The values are frozen with format version 4.
type State uint8

const (
	// StateHome puts the blocks back to their home: whatever was mapped,
	// lost or pending about them is forgotten.
	StateHome State = 1
	// StateMapped puts the blocks into the spare unit; lost and pending
	// are cleared. A unit may have several mapped entries with disjoint
	// masks: its blocks may live in different spare units.
	StateMapped State = 2
	// StateLost says that the blocks have no copy anywhere. A mapping is
	// forgotten and pending is cleared.
	StateLost State = 3
	// StatePending marks blocks that could not be read where they live,
	// at home or in their spare unit. Where they live does not change.
	StatePending State = 4
	// StateRetired takes spare units out of service for good: Spare and
	// Count name them, Unit and Mask are zero. Blocks that already live
	// there stay there.
	StateRetired State = 5
	// StateQuarantined keeps spare units out of the allocator until a later
	// entry about them. Spare and Count name them, Unit and Mask are zero.
	StateQuarantined State = 6
	// StateAvailable gives retired or quarantined spare units back to the
	// allocator. Spare and Count name them, Unit and Mask are zero.
	StateAvailable State = 7
)

var stateNames = [...]string{
	StateHome: "home", StateMapped: "mapped", StateLost: "lost", StatePending: "pending",
	StateRetired: "retired", StateQuarantined: "quarantined", StateAvailable: "available",
}

// String returns the name that the command's JSON uses.
func (s State) String() string {
	if int(s) < len(stateNames) && stateNames[s] != "" {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Valid reports whether s is one of the states of format version 4.
func (s State) Valid() bool { return s >= StateHome && s <= StateAvailable }

// OfSpare reports whether an entry of this state is about spare units rather
// than about exported units.
func (s State) OfSpare() bool { return s >= StateRetired && s <= StateAvailable }

// Cause says what brought an entry about. The values are frozen with format
// version 4.
type Cause uint8

const (
	CauseNone     Cause = 0 // not known
	CauseWrite    Cause = 1 // a write failed
	CauseRead     Cause = 2 // a read failed
	CauseOperator Cause = 3 // remap add or remove
	CauseImport   Cause = 4 // another tool's list
	CauseScrub    Cause = 5 // the scrub found it
	CauseRetest   Cause = 6 // a retest cleared it
	CauseSpare    Cause = 7 // the spare unit that held it failed
	CauseUnknown  Cause = 8 // a commit whose outcome is not known
)

var causeNames = [...]string{
	CauseNone: "none", CauseWrite: "write", CauseRead: "read", CauseOperator: "operator",
	CauseImport: "import",
	CauseScrub:  "scrub", CauseRetest: "retest", CauseSpare: "spare", CauseUnknown: "unknown",
}

// String returns the name that the command's JSON uses.
func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return fmt.Sprintf("cause(%d)", uint8(c))
}

// Valid reports whether c is one of the causes of format version 4.
func (c Cause) Valid() bool { return int(c) < len(causeNames) }

// Entry is one statement about the remap table, in a log record or in a
// checkpoint: the blocks of Mask, in each of the Count units from Unit on, are
// in State. For StateMapped the i-th unit's blocks live in spare unit Spare+i,
// each block at the same place within the spare unit as within its unit.
//
// For the states OfSpare it is a statement about the Count spare units from
// Spare on.
type Entry struct {
	Unit uint64 `json:"unit"` // first unit, counted from the start of the exported device
	// first spare unit: an index over all spare regions; 0 where State has no use for it
	Spare uint32 `json:"spare"`
	Count uint32 `json:"count"` // units, at least 1
	Time  uint32 `json:"time"`  // seconds since 1970
	Mask  uint8  `json:"mask"`  // bit i: block i of the unit; a 4096-byte block is bit 0
	State State  `json:"state"`
	Cause Cause  `json:"cause"`
}

// MarshalText makes JSON carry the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText makes JSON carry the cause's name.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Offsets in an entry; frozen with format version 4.
const (
	entryUnitAt  = 0
	entrySpareAt = 8
	entryCountAt = 12
	entryTimeAt  = 16
	entryMaskAt  = 20
	entryStateAt = 21
	entryCauseAt = 22
	entryFlagsAt = 23 // zero
)

func putEntry(b []byte, e *Entry) {
	_ = b[entrySize-1]
	le.PutUint64(b[entryUnitAt:], e.Unit)
	le.PutUint32(b[entrySpareAt:], e.Spare)
	le.PutUint32(b[entryCountAt:], e.Count)
	le.PutUint32(b[entryTimeAt:], e.Time)
	b[entryMaskAt], b[entryStateAt], b[entryCauseAt] = e.Mask, byte(e.State), byte(e.Cause)
	b[entryFlagsAt] = 0
}

func getEntry(b []byte) (e Entry, flags byte) {
	_ = b[entrySize-1]
	return Entry{
		Unit: le.Uint64(b[entryUnitAt:]), Spare: le.Uint32(b[entrySpareAt:]),
		Count: le.Uint32(b[entryCountAt:]), Time: le.Uint32(b[entryTimeAt:]),
		Mask: b[entryMaskAt], State: State(b[entryStateAt]), Cause: Cause(b[entryCauseAt]),
	}, b[entryFlagsAt]
}

// limits is what an entry may reach: it follows from the layout.
type limits struct {
	units      uint64 // exported units, the last one may be partial
	spareUnits uint64
	mask       uint8 // blocks that a unit has
	lastMask   uint8 // blocks that the last unit has
}

// validate checks the rules of Entry, and that it stays within the device.
func (l *limits) validate(e *Entry) error {
	switch {
	case !e.State.Valid() || !e.Cause.Valid():
		return fmt.Errorf("%w: %s, %s", ErrInvalidEntry, e.State, e.Cause)
	case e.Count == 0:
		return fmt.Errorf("%w: no units", ErrInvalidEntry)
	}
	if e.State.OfSpare() || e.State == StateMapped {
		if uint64(e.Spare)+uint64(e.Count) > l.spareUnits {
			return fmt.Errorf("%w: spare units %d+%d of %d", ErrInvalidEntry, e.Spare, e.Count,
				l.spareUnits)
		}
	} else if e.Spare != 0 {
		return fmt.Errorf("%w: spare unit %d in state %s", ErrInvalidEntry, e.Spare, e.State)
	}
	if e.State.OfSpare() {
		if e.Unit != 0 || e.Mask != 0 {
			return fmt.Errorf("%w: unit %d, mask %#x in state %s", ErrInvalidEntry, e.Unit, e.Mask,
				e.State)
		}
		return nil
	}
	if e.Unit >= l.units || uint64(e.Count) > l.units-e.Unit {
		return fmt.Errorf("%w: units %d+%d of %d", ErrInvalidEntry, e.Unit, e.Count, l.units)
	}
	mask := l.mask
	if e.Unit == l.units-1 {
		mask = l.lastMask
	}
	if e.Mask == 0 || e.Mask&^mask != 0 {
		return fmt.Errorf("%w: mask %#x of %#x", ErrInvalidEntry, e.Mask, mask)
	}
	return nil
}
