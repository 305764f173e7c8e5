package metadata

// Image is a set of devices as Load found it. It reads, and never writes.
type Image struct{}

// Layout of the set.
func (img *Image) Layout() *Layout { panic("in the works") }

// Devices returns the devices that were given to Load, indexed as in
// Layout.Devices.
func (img *Image) Devices() []Device { panic("in the works") }

// ReadOnly reports that the set has ro_compat features that this version does
// not know.
func (img *Image) ReadOnly() bool { panic("in the works") }

// Position of the newest record.
func (img *Image) Position() Position { panic("in the works") }

// Replay calls f with the entries of the checkpoint, then with those of the
// records after it, in order. Every entry is valid for the layout. It stops at
// the first error of f and returns it.
func (img *Image) Replay(f func(Entry) error) error { panic("in the works") }

// Table replays into a table and validates it: ErrDamaged if two units own one
// spare unit.
func (img *Image) Table() (*Table, error) { panic("in the works") }

// Load reads the metadata of a set. devs are its devices in any order, each
// with its own superblock. Errors: ErrNotFound, ErrDamaged, ErrForeign,
// ErrStale, ErrUnsupported.
func Load(devs []Device) (*Image, error) { panic("in the works") }

// Create writes a new set: devs as in plan.Devices. initial are the entries
// that the table begins with. Byte 0 of the backing is written last; a cut at
// any moment leaves either no set, or the whole new one. Whatever the
// devices carried before is lost. Errors: ErrInvalidEntry, ErrGeometry (a
// device does not have the planned size), and those of the devices.
func Create(devs []Device, plan *Layout, initial []Entry) error { panic("in the works") }

// Probe says what a device is, from its superblocks alone. Errors:
// ErrNotFound, ErrUnsupported, ErrDamaged.
func Probe(dev Device) (*Superblock, error) { panic("in the works") }
