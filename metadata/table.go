package metadata

// Extent is a run of units in the same state. The masks are of the blocks of
// each unit.
type Extent struct {
	Unit    uint64
	Count   uint64
	Mapped  uint8     // blocks that live in a spare unit
	Lost    uint8     // blocks without any copy
	Pending uint8     // blocks that cannot be read where they live
	Spare   [8]uint32 // where bit i of Mapped is set: the spare unit of the first unit's block i
	Time    uint32    // of the newest entry about them
	Cause   Cause     // of the newest entry about them
}

// SpareExtent is a run of spare units out of service.
type SpareExtent struct {
	Spare uint32
	Count uint32
	State State // StateRetired or StateQuarantined
	Time  uint32
	Cause Cause
}

// Table is the remap table as entries state it: for offline work and tests.
// The server keeps its own.
type Table struct{}

// NewTable returns an empty table for a layout.
func NewTable(l *Layout) *Table { panic("in the works") }

// Apply states an entry. The error is ErrInvalidEntry.
func (t *Table) Apply(e Entry) error { panic("in the works") }

// Validate checks that no two units own one spare unit; the error is
// ErrDamaged.
func (t *Table) Validate() error { panic("in the works") }

// Extents calls f with the units that are not plainly at home, in order.
func (t *Table) Extents(f func(Extent) bool) { panic("in the works") }

// SpareExtents calls f with the spare units out of service, in order.
func (t *Table) SpareExtents(f func(SpareExtent) bool) { panic("in the works") }

// Entries makes a Table a Source.
func (t *Table) Entries(cursor uint64, dst []Entry) (n int, next uint64, done bool) {
	panic("in the works")
}
