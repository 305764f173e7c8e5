package metadata

import (
	"bytes"
	"fmt"
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

	deviceTableAt = 256
	deviceEntry   = 48
	regionTableAt = 1024
	regionEntry   = 64
)

// compatThird is the feature bit of a set that has a third superblock near the
// start of every device that has none at its end. A version that does not know it
// leaves that copy behind, as an older one.
const compatThird uint32 = 1

// compatFourth is the feature bit of a set whose backing has one more superblock at its
// end: some of the other places are bad. A version that does not know it leaves that copy
// behind, as an older one.
const compatFourth uint32 = 2

// compatSeen is the feature bit of a set whose superblocks end their first 512 bytes as a
// partition table does that has no partitions: that is what other tools know, so that none
// takes the disk of a set that is not served for an empty one. A version that does not know
// it leaves the two bytes away.
const compatSeen uint32 = 4

// seenAt is where the two bytes lie, and seenDevices how many rows the device table has at
// most before it gets in their way: the four entries of 16 bytes before them are zero.
const (
	seenAt      = 510
	seenDevices = 4
)

// incompatTail is the feature bit of a set whose last exported bytes live in a
// displaced tail. A version that does not know it would read them where they are not.
const incompatTail uint32 = 2

// The feature bits that this version knows.
const (
	knownCompat          = compatThird | compatFourth | compatSeen
	knownROCompat uint32 = 0
	knownIncompat        = incompatTransition | incompatTail
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
	// PrevEpoch is the backing's epoch.
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
	SlotBytes     int64  `json:"slot_bytes"`     // a checkpoint slot, multiple of AtomSize
	LogBytes      int64  `json:"log_bytes"`      // a log, multiple of AtomSize
	// TailStart is the first exported byte that lives in the displaced tail, a
	// multiple of 1 MiB; 0: there is none.
	TailStart int64 `json:"tail_start,omitempty"`

	// Transition, if any, goes with two more: where the page is whose write
	// makes or ends the set, 0 or SuperblockStride; and, while releasing, how
	// many blocks of the head do not live in the displaced head.
	Transition Transition `json:"transition,omitempty"`
	Mark       int64      `json:"mark,omitempty"`
	Strays     uint64     `json:"strays,omitempty"`

	Devices []DeviceInfo `json:"devices"`
	Regions []Region     `json:"regions"`
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
	le.PutUint64(b, magicSuperblock)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], PageSize)
	copy(b[24:40], sb.UUID[:])
	copy(b[40:56], sb.Devices[device].UUID[:])
	le.PutUint64(b[56:], sb.Generation)
	le.PutUint64(b[64:], sb.Epoch)
	le.PutUint64(b[72:], sb.PrevEpoch)
	le.PutUint64(b[80:], sb.Session)
	le.PutUint32(b[88:], sb.Created)
	le.PutUint32(b[92:], sb.Started)
	le.PutUint32(b[96:], sb.Compat)
	le.PutUint32(b[100:], sb.ROCompat)
	le.PutUint32(b[104:], sb.Incompat)
	le.PutUint32(b[108:], uint32(device))
	le.PutUint32(b[112:], sb.BlockSize)
	le.PutUint32(b[116:], sb.AtomSize)
	le.PutUint64(b[120:], uint64(sb.HeadBytes))
	le.PutUint64(b[128:], uint64(sb.ExportedBytes))
	le.PutUint64(b[136:], uint64(sb.SlotBytes))
	le.PutUint64(b[144:], uint64(sb.LogBytes))
	le.PutUint32(b[152:], uint32(len(sb.Devices)))
	le.PutUint32(b[156:], uint32(len(sb.Regions)))
	copy(b[160:160+MaxNameBytes], sb.Name)
	le.PutUint32(b[224:], uint32(sb.Transition))
	le.PutUint32(b[228:], uint32(sb.Mark))
	le.PutUint64(b[232:], sb.Strays)
	le.PutUint64(b[240:], uint64(sb.TailStart))
	for i := range sb.Devices {
		d, p := &sb.Devices[i], b[deviceTableAt+i*deviceEntry:]
		copy(p[:16], d.UUID[:])
		le.PutUint64(p[16:], uint64(d.Size))
		le.PutUint32(p[24:], uint32(d.Role))
	}
	if sb.Compat&compatSeen != 0 && len(sb.Devices) <= seenDevices {
		b[seenAt], b[seenAt+1] = 0x55, 0xaa
	}
	for i := range sb.Regions {
		r, p := &sb.Regions[i], b[regionTableAt+i*regionEntry:]
		le.PutUint16(p, uint16(r.Kind))
		le.PutUint16(p[2:], uint16(r.Device))
		if r.Stale {
			le.PutUint32(p[4:], regionStale)
		}
		le.PutUint64(p[8:], uint64(r.Start))
		le.PutUint64(p[16:], uint64(r.Length))
		le.PutUint64(p[24:], r.Generation)
		le.PutUint32(p[32:], r.First)
		le.PutUint64(p[40:], r.StaleFrom.Epoch)
		le.PutUint64(p[48:], r.StaleFrom.Sequence)
	}
	seal(b)
}

// encodeStart puts what a start changes into a superblock that is in b: all of it lies in
// the first 512 bytes.
func (sb *Superblock) encodeStart(b []byte) {
	le.PutUint64(b[56:], sb.Generation)
	le.PutUint64(b[64:], sb.Epoch)
	le.PutUint64(b[72:], sb.PrevEpoch)
	le.PutUint64(b[80:], sb.Session)
	le.PutUint32(b[92:], sb.Started)
	le.PutUint32(b[96:], sb.Compat)
	seal(b[:PageSize])
}

// decodeSuperblock reads the first 4096 bytes of b. ErrNotFound: no superblock
// whose checksum is right; ErrUnsupported: of another version or with unknown
// incompat bits (the superblock is returned all the same if it is of this
// version); ErrDamaged: right checksum, impossible content.
func decodeSuperblock(b []byte) (*Superblock, error) {
	if !sealed(b, magicSuperblock) {
		return nil, ErrNotFound
	}
	if v := le.Uint32(b[8:]); v != Version || le.Uint32(b[12:]) != PageSize {
		return nil, fmt.Errorf("%w: superblock of version %d", ErrUnsupported, v)
	}
	sb := &Superblock{
		Generation: le.Uint64(b[56:]), Epoch: le.Uint64(b[64:]), PrevEpoch: le.Uint64(b[72:]),
		Session: le.Uint64(b[80:]),
		Created: le.Uint32(b[88:]), Started: le.Uint32(b[92:]),
		Compat: le.Uint32(b[96:]), ROCompat: le.Uint32(b[100:]), Incompat: le.Uint32(b[104:]),
		BlockSize: le.Uint32(b[112:]), AtomSize: le.Uint32(b[116:]),
		HeadBytes: int64(le.Uint64(b[120:])), ExportedBytes: int64(le.Uint64(b[128:])),
		SlotBytes: int64(le.Uint64(b[136:])), LogBytes: int64(le.Uint64(b[144:])),
	}
	copy(sb.UUID[:], b[24:])
	name, _, _ := bytes.Cut(b[160:160+MaxNameBytes], []byte{0})
	sb.Name = string(name)
	index, devices, regions := le.Uint32(b[108:]), le.Uint32(b[152:]), le.Uint32(b[156:])
	if devices == 0 || devices > MaxDevices || index >= devices || regions > MaxRegions {
		return nil, fmt.Errorf("%w: superblock with %d devices, %d regions, of device %d",
			ErrDamaged, devices, regions, index)
	}
	sb.DeviceIndex = uint8(index)
	if sb.Incompat&incompatTransition != 0 {
		sb.Transition, sb.Mark, sb.Strays = Transition(le.Uint32(b[224:])),
			int64(le.Uint32(b[228:])), le.Uint64(b[232:])
		if sb.Mark != 0 && sb.Mark != SuperblockStride {
			return nil, fmt.Errorf("%w: superblock in transition with its mark at %d", ErrDamaged,
				sb.Mark)
		}
	}
	if sb.Incompat&incompatTail != 0 {
		sb.TailStart = int64(le.Uint64(b[240:]))
	}
	for i := range int(devices) {
		p := b[deviceTableAt+i*deviceEntry:]
		d := DeviceInfo{Size: int64(le.Uint64(p[16:])), Role: Role(le.Uint32(p[24:]))}
		copy(d.UUID[:], p)
		sb.Devices = append(sb.Devices, d)
	}
	for i := range int(regions) {
		p := b[regionTableAt+i*regionEntry:]
		if dev := le.Uint16(p[2:]); uint32(dev) >= devices {
			return nil, fmt.Errorf("%w: region %d on device %d of %d", ErrDamaged, i, dev, devices)
		}
		sb.Regions = append(sb.Regions, Region{
			Kind: RegionKind(le.Uint16(p)), Device: uint8(le.Uint16(p[2:])),
			Stale: le.Uint32(p[4:])&regionStale != 0,
			Start: int64(le.Uint64(p[8:])), Length: int64(le.Uint64(p[16:])),
			Generation: le.Uint64(p[24:]),
			First:      le.Uint32(p[32:]),
			StaleFrom:  Position{le.Uint64(p[40:]), le.Uint64(p[48:])},
		})
	}
	if !bytes.Equal(b[40:56], sb.Devices[index].UUID[:]) {
		return nil, fmt.Errorf("%w: superblock of device %d carries another device's UUID",
			ErrDamaged, index)
	}
	if sb.Incompat&^knownIncompat != 0 {
		return sb, fmt.Errorf("%w: incompat features %#x", ErrUnsupported,
			sb.Incompat&^knownIncompat)
	}
	if sb.Incompat&incompatTransition != 0 && (sb.Transition < TransitionCopied ||
		sb.Transition > TransitionReleasing) {
		return sb, fmt.Errorf("%w: %s", ErrUnsupported, sb.Transition)
	}
	return sb, nil
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
