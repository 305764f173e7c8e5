package metadata

import (
	"bytes"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Places and limits of the superblock; frozen with format version 4.
const (
	// SuperblockStride is the distance of the first two copies: byte 0 and
	// byte 64 KiB. A copy at the end, if any, lies this far before it.
	SuperblockStride = 64 << 10
	// RegionStart is the first byte behind the superblocks of a device.
	RegionStart = 2 * SuperblockStride

	// MaxNameBytes is the longest name of a set, in bytes of UTF-8.
	MaxNameBytes = 64
	// MaxDevices is the most devices that a set has, the backing included.
	MaxDevices = 16
	// MaxRegions is the most regions of a set.
	MaxRegions = 40
)

// Offsets in a superblock; frozen with format version 4.
const (
	sbSizeAt        = wordAt // 4096
	sbDeviceUUIDAt  = bodyAt
	sbGenerationAt  = 56
	sbEpochAt       = 64
	sbPrevEpochAt   = 72
	sbSessionAt     = 80
	sbCreatedAt     = 88
	sbStartedAt     = 92
	sbCompatAt      = 96
	sbROCompatAt    = 100
	sbIncompatAt    = 104
	sbDeviceIndexAt = 108
	sbBlockSizeAt   = 112
	sbAtomSizeAt    = 116
	sbHeadBytesAt   = 120
	sbExportedAt    = 128
	sbSlotBytesAt   = 136
	sbLogBytesAt    = 144
	sbDevicesAt     = 152 // rows of the device table
	sbRegionsAt     = 156 // rows of the region table
	sbNameAt        = 160
	sbTransitionAt  = 224
	sbMarkAt        = 228
	sbStraysAt      = 232
	sbTailStartAt   = 240

	deviceTableAt = 256
	deviceEntry   = 48
	deviceUUIDAt  = 0
	deviceSizeAt  = 16
	deviceRoleAt  = 24
	deviceBlockAt = 28

	regionTableAt      = 1024
	regionEntry        = 64
	regionKindAt       = 0
	regionDeviceAt     = 2
	regionFlagsAt      = 4
	regionStartAt      = 8
	regionLengthAt     = 16
	regionGenerationAt = 24
	regionFirstAt      = 32
	regionStaleFromAt  = 40
)

// compatThird is the feature bit of a set that has a third superblock near the
// start of every device that has none at its end. A version that does not know it
// leaves that copy behind, as an older one.
const compatThird uint32 = 1

// compatFourth is the feature bit of a set whose backing has one more superblock at its
// end: some of the other places are bad. A version that does not know it leaves that copy
// behind, as an older one.
const compatFourth uint32 = 2

// incompatTail is the feature bit of a set whose last exported bytes live in a
// displaced tail. A version that does not know it would read them where they are not.
const incompatTail uint32 = 2

// incompatSlots is the feature bit of a set of which some mirrors have larger checkpoint slots
// than SlotBytes. A version that does not know it would look for records where pages are.
const incompatSlots uint32 = 4

// The feature bits that this version knows.
const (
	knownCompat = compatThird | compatFourth | compatSignature | compatPartition |
		compatEvents
	knownROCompat uint32 = 0
	knownIncompat        = incompatTransition | incompatTail | incompatSlots |
		incompatFarDevices
)

// Role says what a device of a set is for.
type Role uint32

const (
	RoleBacking Role = 1 // holds the data; device 0, and only that
	RoleSpare   Role = 2 // holds spare regions
)

// String returns the role's name in JSON.
func (r Role) String() string {
	switch r {
	case RoleBacking:
		return "backing"
	case RoleSpare:
		return "spare"
	}
	return fmt.Sprintf("role(%d)", uint32(r))
}

// MarshalText makes JSON carry the name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// RegionKind says what a region holds.
type RegionKind uint16

const (
	RegionMirror        RegionKind = 1 // two checkpoint slots and a log
	RegionSpare         RegionKind = 2 // spare units
	RegionDisplacedHead RegionKind = 3 // the data whose home the head took
	// the last bytes of the data, which are kept away from the disk's end
	RegionDisplacedTail RegionKind = 4
)

// String returns the kind's name in JSON.
func (k RegionKind) String() string {
	switch k {
	case RegionMirror:
		return "mirror"
	case RegionSpare:
		return "spare"
	case RegionDisplacedHead:
		return "displaced-head"
	case RegionDisplacedTail:
		return "displaced-tail"
	}
	return fmt.Sprintf("kind(%d)", uint16(k))
}

// MarshalText makes JSON carry the name.
func (k RegionKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// DeviceInfo is a row of the superblock's device table.
type DeviceInfo struct {
	UUID uuid.UUID `json:"uuid"`
	Size int64     `json:"size"` // bytes, when it joined the set
	Role Role      `json:"role"`
	// BlockSize is the logical block of the device in bytes, where it is not the set's; 0
	// otherwise. The partition table of the device counts in it.
	BlockSize uint32 `json:"block_size,omitempty"`
}

// regionStale is the flag of a mirror that missed records.
const regionStale uint32 = 1

// Region is a row of the superblock's region table.
type Region struct {
	Kind       RegionKind `json:"kind"`
	Device     uint8      `json:"device"`     // index into the device table
	Start      int64      `json:"start"`      // byte offset on the device
	Length     int64      `json:"length"`     // bytes
	Generation uint64     `json:"generation"` // counts the region's moves; 1 at first
	// First is, for RegionSpare, the index of the region's first spare unit.
	First uint32 `json:"first,omitempty"`
	// Stale marks a mirror that misses records from StaleFrom on: it cannot
	// say what the newest record is.
	Stale     bool     `json:"stale,omitempty"`
	StaleFrom Position `json:"stale_from,omitzero"`
}

// Superblock is the content of every superblock of a set. The copies on one
// device are alike; between devices they differ in DeviceIndex only.
type Superblock struct {
	UUID        uuid.UUID `json:"uuid"`
	Name        string    `json:"name"`
	DeviceIndex uint8     `json:"device_index"` // whose superblock this is
	Generation  uint64    `json:"generation"`   // counts the writes of the superblock
	Epoch       uint64    `json:"epoch"`        // raised by every start
	// PrevEpoch is the epoch that the last start found. A device that has a
	// higher epoch than the backing belongs to a start that was cut, if its
	// PrevEpoch is the backing's epoch. A superblock that was written after the start has its own
	// Epoch here.
	PrevEpoch uint64 `json:"prev_epoch"`
	Session   uint64 `json:"session"` // drawn by the last start
	Created   uint32 `json:"created"` // seconds since 1970
	Started   uint32 `json:"started"` // seconds since 1970; 0: never

	Compat   uint32 `json:"compat"`
	ROCompat uint32 `json:"ro_compat"`
	Incompat uint32 `json:"incompat"`

	BlockSize     uint32 `json:"block_size"`     // bytes
	AtomSize      uint32 `json:"atom_size"`      // bytes a log record takes
	HeadBytes     int64  `json:"head_bytes"`     // what is displaced, multiple of 1 MiB
	ExportedBytes int64  `json:"exported_bytes"` // multiple of BlockSize
	SlotBytes     int64  `json:"slot_bytes"`     // the least checkpoint slot; see MirrorSlot
	LogBytes      int64  `json:"log_bytes"`      // a log, multiple of AtomSize
	// TailStart is the first exported byte that lives in the displaced tail, a
	// multiple of 1 MiB; 0: there is none.
	TailStart int64 `json:"tail_start,omitempty"`

	// Transition, if there is one, gives two more fields a meaning. Mark is the place of the page
	// whose write makes or ends the set, 0 or SuperblockStride. Strays is, during a revert, how
	// many blocks of the head do not live in the displaced head.
	Transition Transition `json:"transition,omitempty"`
	Mark       int64      `json:"mark,omitempty"`
	Strays     uint64     `json:"strays,omitempty"`

	Devices []DeviceInfo `json:"devices"`
	Regions []Region     `json:"regions"`
}

// MirrorSlot is how many bytes each of the two checkpoint slots of a mirror has, a multiple of
// AtomSize and at least SlotBytes. The log follows the second one, to the end of the region.
func (sb *Superblock) MirrorSlot(r *Region) int64 { return (r.Length - sb.LogBytes) / 2 }

// mirrorLength is how many bytes a mirror with slots of that size takes.
func (sb *Superblock) mirrorLength(slot int64) int64 { return 2*slot + sb.LogBytes }

// leastSlot is the size of the smallest checkpoint slot that a mirror has. It bounds the table,
// because every mirror must be able to hold all of it, also one that is stale now.
func (sb *Superblock) leastSlot() int64 {
	least := int64(math.MaxInt64)
	for i := range sb.Regions {
		if r := &sb.Regions[i]; r.Kind == RegionMirror {
			least = min(least, sb.MirrorSlot(r))
		}
	}
	return least
}

// tableCapacity is how many entries a checkpoint holds on every mirror.
func (sb *Superblock) tableCapacity() uint64 {
	return uint64((sb.leastSlot()-int64(sb.AtomSize))/PageSize) * entriesPerPage
}

// stateSlots sets the feature bit if a mirror has larger slots than SlotBytes.
func (sb *Superblock) stateSlots() {
	sb.Incompat &^= incompatSlots
	for i := range sb.Regions {
		if r := &sb.Regions[i]; r.Kind == RegionMirror && sb.MirrorSlot(r) != sb.SlotBytes {
			sb.Incompat |= incompatSlots
		}
	}
}

// clone returns a copy that shares nothing.
func (sb *Superblock) clone() *Superblock {
	c := *sb
	c.Devices = append([]DeviceInfo(nil), sb.Devices...)
	c.Regions = append([]Region(nil), sb.Regions...)
	return &c
}

// encode writes the superblock of the device with that index into the first
// 4096 bytes of b. It allocates nothing.
func (sb *Superblock) encode(b []byte, device uint8) {
	b = b[:PageSize]
	clear(b)
	putHead(b, magicSuperblock, PageSize, &sb.UUID)
	copy(b[sbDeviceUUIDAt:], sb.Devices[device].UUID[:])
	le.PutUint64(b[sbGenerationAt:], sb.Generation)
	le.PutUint64(b[sbEpochAt:], sb.Epoch)
	le.PutUint64(b[sbPrevEpochAt:], sb.PrevEpoch)
	le.PutUint64(b[sbSessionAt:], sb.Session)
	le.PutUint32(b[sbCreatedAt:], sb.Created)
	le.PutUint32(b[sbStartedAt:], sb.Started)
	le.PutUint32(b[sbCompatAt:], sb.Compat)
	le.PutUint32(b[sbROCompatAt:], sb.ROCompat)
	le.PutUint32(b[sbIncompatAt:], sb.Incompat)
	le.PutUint32(b[sbDeviceIndexAt:], uint32(device))
	le.PutUint32(b[sbBlockSizeAt:], sb.BlockSize)
	le.PutUint32(b[sbAtomSizeAt:], sb.AtomSize)
	le.PutUint64(b[sbHeadBytesAt:], uint64(sb.HeadBytes))
	le.PutUint64(b[sbExportedAt:], uint64(sb.ExportedBytes))
	le.PutUint64(b[sbSlotBytesAt:], uint64(sb.SlotBytes))
	le.PutUint64(b[sbLogBytesAt:], uint64(sb.LogBytes))
	le.PutUint32(b[sbDevicesAt:], uint32(len(sb.Devices)))
	le.PutUint32(b[sbRegionsAt:], uint32(len(sb.Regions)))
	copy(b[sbNameAt:sbNameAt+MaxNameBytes], sb.Name)
	le.PutUint32(b[sbTransitionAt:], uint32(sb.Transition))
	le.PutUint32(b[sbMarkAt:], uint32(sb.Mark))
	le.PutUint64(b[sbStraysAt:], sb.Strays)
	le.PutUint64(b[sbTailStartAt:], uint64(sb.TailStart))
	for i := range sb.Devices {
		sb.Devices[i].encode(sb.deviceRow(b, i))
	}
	sb.putPartitionTable(b, device)
	for i := range sb.Regions {
		sb.Regions[i].encode(b[regionTableAt+i*regionEntry:])
	}
	seal(b)
}

func (d *DeviceInfo) encode(b []byte) {
	copy(b[deviceUUIDAt:], d.UUID[:])
	le.PutUint64(b[deviceSizeAt:], uint64(d.Size))
	le.PutUint32(b[deviceRoleAt:], uint32(d.Role))
	le.PutUint32(b[deviceBlockAt:], d.BlockSize)
}

func (r *Region) encode(b []byte) {
	le.PutUint16(b[regionKindAt:], uint16(r.Kind))
	le.PutUint16(b[regionDeviceAt:], uint16(r.Device))
	if r.Stale {
		le.PutUint32(b[regionFlagsAt:], regionStale)
	}
	le.PutUint64(b[regionStartAt:], uint64(r.Start))
	le.PutUint64(b[regionLengthAt:], uint64(r.Length))
	le.PutUint64(b[regionGenerationAt:], r.Generation)
	le.PutUint32(b[regionFirstAt:], r.First)
	putPosition(b[regionStaleFromAt:], r.StaleFrom)
}

// encodeStart puts what a start changes into a superblock that is in b: all of it lies in
// the first 512 bytes.
func (sb *Superblock) encodeStart(b []byte) {
	le.PutUint64(b[sbGenerationAt:], sb.Generation)
	le.PutUint64(b[sbEpochAt:], sb.Epoch)
	le.PutUint64(b[sbPrevEpochAt:], sb.PrevEpoch)
	le.PutUint64(b[sbSessionAt:], sb.Session)
	le.PutUint32(b[sbStartedAt:], sb.Started)
	le.PutUint32(b[sbCompatAt:], sb.Compat)
	sb.putPartitionTable(b, uint8(le.Uint32(b[sbDeviceIndexAt:])))
	seal(b[:PageSize])
}

// superblockOf reports whether b is a superblock of a device of the set, and of which
// generation. It allocates nothing.
func superblockOf(b []byte, set, device *uuid.UUID) (generation uint64, ok bool) {
	if !sealed(b, magicSuperblock) || !ofSet(b, set) ||
		uuid.UUID(b[sbDeviceUUIDAt:sbDeviceUUIDAt+len(device)]) != *device {
		return 0, false
	}
	return le.Uint64(b[sbGenerationAt:]), true
}

// decodeSuperblock reads the first 4096 bytes of b. ErrNotFound: no superblock
// whose checksum matches; ErrUnsupported: of an unknown version or with unknown
// incompat bits (with the latter the superblock is returned anyway);
// ErrDamaged: the checksum matches, the content is impossible.
func decodeSuperblock(b []byte) (*Superblock, error) {
	if !sealed(b, magicSuperblock) {
		return nil, ErrNotFound
	}
	d := decodersOf(b)
	if d == nil {
		return nil, errVersion(b)
	}
	return d.superblock(b)
}

func decodeSuperblock4(b []byte) (*Superblock, error) {
	if n := le.Uint32(b[sbSizeAt:]); n != PageSize {
		return nil, fmt.Errorf("%w: superblock of %d bytes", ErrUnsupported, n)
	}
	sb := &Superblock{
		UUID:          uuid.UUID(b[setAt:bodyAt]),
		Generation:    le.Uint64(b[sbGenerationAt:]),
		Epoch:         le.Uint64(b[sbEpochAt:]),
		PrevEpoch:     le.Uint64(b[sbPrevEpochAt:]),
		Session:       le.Uint64(b[sbSessionAt:]),
		Created:       le.Uint32(b[sbCreatedAt:]),
		Started:       le.Uint32(b[sbStartedAt:]),
		Compat:        le.Uint32(b[sbCompatAt:]),
		ROCompat:      le.Uint32(b[sbROCompatAt:]),
		Incompat:      le.Uint32(b[sbIncompatAt:]),
		BlockSize:     le.Uint32(b[sbBlockSizeAt:]),
		AtomSize:      le.Uint32(b[sbAtomSizeAt:]),
		HeadBytes:     int64(le.Uint64(b[sbHeadBytesAt:])),
		ExportedBytes: int64(le.Uint64(b[sbExportedAt:])),
		SlotBytes:     int64(le.Uint64(b[sbSlotBytesAt:])),
		LogBytes:      int64(le.Uint64(b[sbLogBytesAt:])),
	}
	name, _, _ := bytes.Cut(b[sbNameAt:sbNameAt+MaxNameBytes], []byte{0})
	sb.Name = string(name)
	if err := sb.decodeTables(b); err != nil {
		return nil, err
	}
	if err := sb.decodeFeatures(b); err != nil {
		return nil, err
	}
	return sb, sb.unknownFeatures()
}

// decodeTables reads the tables of devices and regions. The error is ErrDamaged.
func (sb *Superblock) decodeTables(b []byte) error {
	index, devices, regions := le.Uint32(b[sbDeviceIndexAt:]), le.Uint32(b[sbDevicesAt:]),
		le.Uint32(b[sbRegionsAt:])
	if devices == 0 || devices > MaxDevices || index >= devices || regions > MaxRegions {
		return fmt.Errorf("%w: superblock with %d devices, %d regions, of device %d",
			ErrDamaged, devices, regions, index)
	}
	sb.DeviceIndex = uint8(index)
	for i := range int(devices) {
		p := sb.deviceRow(b, i)
		sb.Devices = append(sb.Devices, DeviceInfo{
			UUID:      uuid.UUID(p[deviceUUIDAt:deviceSizeAt]),
			Size:      int64(le.Uint64(p[deviceSizeAt:])),
			Role:      Role(le.Uint32(p[deviceRoleAt:])),
			BlockSize: le.Uint32(p[deviceBlockAt:]),
		})
	}
	for i := range int(regions) {
		p := b[regionTableAt+i*regionEntry:]
		dev := le.Uint16(p[regionDeviceAt:])
		if uint32(dev) >= devices {
			return fmt.Errorf("%w: region %d on device %d of %d", ErrDamaged, i, dev, devices)
		}
		sb.Regions = append(sb.Regions, Region{
			Kind:       RegionKind(le.Uint16(p[regionKindAt:])),
			Device:     uint8(dev),
			Stale:      le.Uint32(p[regionFlagsAt:])&regionStale != 0,
			Start:      int64(le.Uint64(p[regionStartAt:])),
			Length:     int64(le.Uint64(p[regionLengthAt:])),
			Generation: le.Uint64(p[regionGenerationAt:]),
			First:      le.Uint32(p[regionFirstAt:]),
			StaleFrom:  getPosition(p[regionStaleFromAt:]),
		})
	}
	own := &sb.Devices[index].UUID
	if !bytes.Equal(b[sbDeviceUUIDAt:sbDeviceUUIDAt+len(own)], own[:]) {
		return fmt.Errorf("%w: superblock of device %d carries another device's UUID",
			ErrDamaged, index)
	}
	return nil
}

// decodeFeatures reads the fields that count only where a feature bit says so. The error is
// ErrDamaged.
func (sb *Superblock) decodeFeatures(b []byte) error {
	if sb.Incompat&incompatTail != 0 {
		sb.TailStart = int64(le.Uint64(b[sbTailStartAt:]))
	}
	if sb.Incompat&incompatTransition != 0 {
		sb.Transition = Transition(le.Uint32(b[sbTransitionAt:]))
		sb.Mark = int64(le.Uint32(b[sbMarkAt:]))
		sb.Strays = le.Uint64(b[sbStraysAt:])
		if sb.Mark != 0 && sb.Mark != SuperblockStride {
			return fmt.Errorf("%w: superblock in transition with its mark at %d", ErrDamaged,
				sb.Mark)
		}
	}
	return nil
}

// unknownFeatures is ErrUnsupported for a superblock that this program must not use.
func (sb *Superblock) unknownFeatures() error {
	if unknown := sb.Incompat &^ knownIncompat; unknown != 0 {
		return fmt.Errorf("%w: incompat features %#x", ErrUnsupported, unknown)
	}
	if sb.Incompat&incompatTransition != 0 && (sb.Transition < TransitionCopied ||
		sb.Transition > TransitionReverting) {
		return fmt.Errorf("%w: %s", ErrUnsupported, sb.Transition)
	}
	return nil
}

func validName(name string) bool {
	if len(name) == 0 || len(name) > MaxNameBytes || !utf8.ValidString(name) {
		return false
	}
	for _, r := range name {
		if r <= ' ' || r == '/' || r == 0x7f {
			return false
		}
	}
	return name[0] != '.' && name[0] != '-'
}

// copyPlace is one copy of the superblock.
type copyPlace struct {
	device uint8
	offset int64
}
