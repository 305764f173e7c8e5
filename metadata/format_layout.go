package metadata

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/google/uuid"
)

const (
	headAlign = 1 << 20

	// tailBytes is how much of the exported end is displaced at least, where there
	// is a displaced tail. The mark that lies farthest from a disk's end is that of
	// Promise's RAIDs, 3087 sectors of 512 bytes, which is 1.51 MiB.
	tailBytes = 2 << 20
	// tailRoom is the room for the tail on the spare device, however the end is aligned.
	tailRoom = tailBytes + headAlign

	minLogBytes = 256 << 10
	maxLogBytes = 64 << 20
	minLogAtoms = 64

	// defaultTableRoom is what a checkpoint holds beyond the spare units and a
	// quarter more: pending, lost and retired extents of a small device.
	defaultTableRoom = 4096
	maxTableRoom     = 1 << 32

	// DefaultSpareMax is the most spare space that Plan takes by itself.
	DefaultSpareMax = 16 << 30
	// MinSpareBytes is the least spare space that Plan takes by itself.
	MinSpareBytes = 64 << 10

	// maxDeviceBytes keeps every sum of offsets far from overflow: 4 EiB.
	maxDeviceBytes = int64(1) << 62
)

// PlanParams says what Plan should lay out. Sizes are bytes.
type PlanParams struct {
	BackingSize       int64
	BlockSize         int // logical block of the backing: 512, 1024, 2048 or 4096
	PhysicalBlockSize int // 0 or a power of two up to 64 KiB
	// SpareBytes is the spare space, a multiple of 4096, taken exactly as
	// asked. 0: one per cent of the backing (with a spare device: what fits
	// there), at least MinSpareBytes, at most DefaultSpareMax.
	SpareBytes int64
	// SpareDeviceSize is the size of the spare device; 0: there is none, and
	// everything lies on the backing.
	SpareDeviceSize int64
	// TableSpareBytes reserves checkpoints and logs for that much spare space,
	// for spare devices that are to be added later. Default: SpareBytes.
	TableSpareBytes int64
	// TableRoom is how many entries the table has room for at first, beyond one and a quarter for
	// each spare unit. Default: 4096. As the table fills, the mirrors get larger slots by
	// themselves, as far as there is room for them.
	TableRoom int64
	// Bad are places that are known not to hold data. The metadata is laid out around
	// them, as far as possible.
	Bad []BadRange
	// KeepTail leaves the last exported bytes at the end of the backing even if
	// there is a spare device, as older versions did. Signatures at the end of a disk
	// then show on the backing.
	KeepTail bool
	// Name of the set: 1 to 64 bytes of UTF-8 without blanks, control
	// characters and slashes.
	Name string
	// Created is the time, in seconds since 1970.
	Created uint32
	// UUID of the set, and of its devices (the backing first). Drawn at random
	// where zero.
	UUID        uuid.UUID
	DeviceUUIDs [2]uuid.UUID
	// DeviceBlockSizes are the logical blocks of the devices, where they are smaller than
	// BlockSize; 0: they are not.
	DeviceBlockSizes [2]int
}

// TooSmallError says how large a device would have to be. It is ErrTooSmall.
type TooSmallError struct {
	Role Role
	Size int64 // bytes it has
	Need int64 // bytes it needs
}

// Error names both sizes.
func (e *TooSmallError) Error() string {
	return fmt.Sprintf("%s %v: it has %d bytes, %d are needed", e.Role, ErrTooSmall, e.Size, e.Need)
}

// Unwrap makes it ErrTooSmall.
func (e *TooSmallError) Unwrap() error { return ErrTooSmall }

// Layout answers where everything lies. It is immutable, and safe for any
// number of goroutines.
type Layout struct {
	sb Superblock

	blockShift uint8
	headBlocks uint64
	blocks     uint64

	headDev   uint8
	headStart int64

	tailBlock uint64 // the first block of the displaced tail; without one, blocks
	tailDev   uint8
	tailStart int64

	spareUnits uint64
	spares     []Region // RegionSpare, by First
	mirrors    []int    // indices of RegionMirror in sb.Regions

	lim limits

	bad []BadRange // of PlanParams; not a part of the format
}

// capacityFor is how many entries a checkpoint must hold for that many spare
// units, and room more.
func capacityFor(spareUnits, room int64) int64 { return spareUnits + spareUnits/4 + room }

// mirrorSizes returns the sizes of a slot and a log, for a set with that much spare space.
func (p *PlanParams) mirrorSizes(spare, atom int64) (slot, log int64) {
	units := max(spare, p.TableSpareBytes) / UnitSize
	return mirrorSizes(capacityFor(units, cmp.Or(p.TableRoom, defaultTableRoom)), atom)
}

// mirrorSizes returns the sizes of a slot that holds that many entries, and of a log.
func mirrorSizes(entries, atom int64) (slot, log int64) {
	pages := (entries + entriesPerPage - 1) / entriesPerPage
	// The header page has the first atom to itself, so that writing it
	// touches no physical block that holds pages.
	slot = atom + roundUp(pages*PageSize, atom)
	log = min(max(slot/4, minLogBytes, minLogAtoms*atom), maxLogBytes)
	return slot, roundUp(log, atom)
}

// Plan lays out a new set. It reads and writes nothing. Errors: ErrGeometry,
// ErrTooSmall.
func Plan(p PlanParams) (*Layout, error) {
	bs := int64(p.BlockSize)
	if bs < 512 || bs > PageSize || bs&(bs-1) != 0 {
		return nil, fmt.Errorf("%w: blocks of %d bytes; 512, 1024, 2048 and 4096 are", ErrGeometry,
			bs)
	}
	phys := int64(p.PhysicalBlockSize)
	if phys < 0 || phys > SuperblockStride || phys&(phys-1) != 0 {
		return nil, fmt.Errorf("%w: physical blocks of %d bytes; at most 64 KiB are", ErrGeometry,
			phys)
	}
	atom := max(PageSize, phys)
	if p.BackingSize < 0 || p.BackingSize > maxDeviceBytes || p.SpareDeviceSize < 0 ||
		p.SpareDeviceSize > maxDeviceBytes {
		return nil, fmt.Errorf("%w: device sizes %d and %d", ErrGeometry, p.BackingSize,
			p.SpareDeviceSize)
	}
	if !validName(p.Name) {
		return nil, fmt.Errorf("%w: name %q: 1 to %d bytes, no blanks, no slashes, not starting "+
			"with . or -", ErrGeometry, p.Name, MaxNameBytes)
	}
	if p.SpareBytes < 0 || p.SpareBytes%UnitSize != 0 || p.TableSpareBytes < 0 {
		return nil, fmt.Errorf("%w: spare space of %d bytes: not a multiple of %d", ErrGeometry,
			p.SpareBytes, UnitSize)
	}
	if p.TableRoom < 0 || p.TableRoom > maxTableRoom {
		return nil, fmt.Errorf("%w: room for %d entries more in the table; 0 to %d are",
			ErrGeometry, p.TableRoom, int64(maxTableRoom))
	}
	if max(p.SpareBytes, p.TableSpareBytes)/UnitSize > math.MaxUint32 {
		return nil, fmt.Errorf("%w: spare space of %d bytes: more than 2^32 units", ErrGeometry,
			max(p.SpareBytes, p.TableSpareBytes))
	}
	sb := Superblock{
		UUID: p.UUID, Name: p.Name, Generation: 1, Epoch: 1, Created: p.Created,
		BlockSize: uint32(bs), AtomSize: uint32(atom),
		Devices: []DeviceInfo{{UUID: p.DeviceUUIDs[0], Size: p.BackingSize, Role: RoleBacking}},
	}
	if p.SpareDeviceSize != 0 {
		sb.Devices = append(sb.Devices, DeviceInfo{UUID: p.DeviceUUIDs[1], Size: p.SpareDeviceSize,
			Role: RoleSpare})
	}
	for i := range sb.Devices {
		if own := p.DeviceBlockSizes[i]; own != p.BlockSize {
			sb.Devices[i].BlockSize = uint32(own)
		}
	}
	sb.addPartition()
	for _, id := range []*uuid.UUID{&sb.UUID, &sb.Devices[0].UUID,
		&sb.Devices[len(sb.Devices)-1].UUID} {
		if *id == uuid.Nil {
			*id = uuid.New()
		}
	}
	return planAround(&sb, p, atom)
}

// defaultSpare is one per cent of the backing, within the limits.
func defaultSpare(backing int64) int64 {
	return roundUp(min(max(backing/100, MinSpareBytes), DefaultSpareMax), int64(UnitSize))
}

// planAlone: everything on the backing. Head and tail have room for one more
// mirror each, for a mirror whose place becomes bad.
//
//	|superblocks| mirror A |room| data ... |displaced head| spare |room| mirror B |superblock|
//
// more is how much larger the head and the room in the tail are than they must be.
func planAlone(sb *Superblock, p PlanParams, atom, more int64) error {
	spare := p.SpareBytes
	if spare == 0 {
		spare = defaultSpare(p.BackingSize)
	}
	slot, log := p.mirrorSizes(spare, atom)
	mirror := 2*slot + log
	head := roundUp(RegionStart+2*mirror, headAlign) + more
	// The tail superblock shares no physical block with the mirror.
	mirrorB := roundDown(tailSuperblock(p.BackingSize), atom) - mirror
	tail := roundDown(mirrorB-mirror-more-spare-head, int64(headAlign))
	if tail < 2*head {
		// On a smaller disk there would be less data behind the head than the head displaces.
		need := 2*head + head + spare + 2*mirror + 2*SuperblockStride + headAlign
		return &TooSmallError{Role: RoleBacking, Size: p.BackingSize,
			Need: roundUp(need, headAlign)}
	}
	sb.HeadBytes, sb.ExportedBytes, sb.SlotBytes, sb.LogBytes = head, tail, slot, log
	sb.Regions = []Region{
		{Kind: RegionMirror, Start: RegionStart, Length: mirror, Generation: 1},
		{Kind: RegionMirror, Start: mirrorB, Length: mirror, Generation: 1},
		{Kind: RegionDisplacedHead, Start: tail, Length: head, Generation: 1},
		{Kind: RegionSpare, Start: tail + head, Length: spare, Generation: 1},
	}
	return nil
}

// planPair: the backing keeps its full size, the displaced head and tail and the spare units lie on
// the spare device. Either has room for one more mirror, and a third superblock: with two, if one
// takes writes and does not read, only the other is left, and a power cut can tear that while it is
// written. The tail is displaced so that nothing that marks a disk at its end is found on the
// backing.
//
//	backing: | superblocks | mirror A | mirror B | room | data ... | zero | superblock | zero |
//	spare:   | superblocks | mirror C | room | displaced head | displaced tail | spare ... |
//
// more is how much larger the head and the room for mirrors on the spare device are than
// they must be.
func planPair(sb *Superblock, p PlanParams, atom, more int64) error {
	sb.Compat |= compatThird
	first := sb.firstRegion(1)
	exported := roundDown(p.BackingSize, int64(sb.BlockSize))
	room := int64(0)
	if !p.KeepTail {
		sb.Incompat |= incompatTail
		sb.TailStart = roundDown(max(exported-tailBytes, 0), int64(headAlign))
		room = tailRoom
	}
	sizes := func(spare int64) (slot, log, mirror, head, spareAt int64) {
		slot, log = p.mirrorSizes(spare, atom)
		mirror = 2*slot + log
		head = roundUp(first+3*mirror, headAlign) + more
		return slot, log, mirror, head, roundUp(first+2*mirror, headAlign) + more + head + room
	}
	spare := p.SpareBytes
	if spare == 0 {
		// Take what fits. The size of the mirror depends on it, a little.
		spare = min(roundDown(p.SpareDeviceSize, int64(UnitSize)), DefaultSpareMax)
		for range 64 {
			_, _, _, _, at := sizes(spare)
			fits := roundDown(p.SpareDeviceSize-at, int64(UnitSize))
			if spare <= fits {
				break
			}
			spare = max(fits, MinSpareBytes)
		}
	}
	slot, log, mirror, head, spareAt := sizes(spare)
	if p.SpareDeviceSize < spareAt+spare {
		return &TooSmallError{Role: RoleSpare, Size: p.SpareDeviceSize, Need: spareAt + spare}
	}
	if need := 2*head + room; exported < need {
		return &TooSmallError{Role: RoleBacking, Size: p.BackingSize, Need: need}
	}
	sb.HeadBytes, sb.ExportedBytes, sb.SlotBytes, sb.LogBytes = head, exported, slot, log
	sb.Regions = []Region{
		{Kind: RegionMirror, Start: first, Length: mirror, Generation: 1},
		{Kind: RegionMirror, Start: first + mirror, Length: mirror, Generation: 1},
		{Kind: RegionMirror, Device: 1, Start: first, Length: mirror, Generation: 1},
		{Kind: RegionDisplacedHead, Device: 1, Start: spareAt - room - head, Length: head,
			Generation: 1},
	}
	if room > 0 {
		sb.Regions = append(sb.Regions, Region{
			Kind: RegionDisplacedTail, Device: 1, Start: spareAt - room,
			Length: roundUp(exported-sb.TailStart, PageSize), Generation: 1,
		})
	}
	sb.Regions = append(sb.Regions, Region{Kind: RegionSpare, Device: 1, Start: spareAt,
		Length: spare, Generation: 1})
	return nil
}

// fourthStride is how far behind the copy at the end the fourth one lies, if there is one.
const fourthStride = SuperblockStride / 2

// tailSuperblock is where the copy at the end lies on a device of that size.
func tailSuperblock(size int64) int64 { return roundDown(size, int64(PageSize)) - SuperblockStride }

// newLayout checks everything that the rest of the package relies on: a
// Layout never points outside of its devices. The error is ErrDamaged.
func newLayout(sb *Superblock) (*Layout, error) {
	l := &Layout{sb: *sb.clone()}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("%w: superblock: %w", ErrDamaged, err)
	}
	return l, nil
}

// check finds what contradicts itself in the superblock, and fills in the rest of l.
func (l *Layout) check() error {
	for _, f := range []func() error{l.checkSizes, l.checkDevices, l.checkDisplaced,
		l.checkRegions} {
		if err := f(); err != nil {
			return err
		}
	}
	l.countBlocks()
	return nil
}

func (l *Layout) checkSizes() error {
	sb := &l.sb
	bs, atom := int64(sb.BlockSize), int64(sb.AtomSize)
	switch {
	case bs < 512 || bs > PageSize || bs&(bs-1) != 0:
		return fmt.Errorf("block size %d", bs)
	case atom < PageSize || atom > SuperblockStride || atom&(atom-1) != 0:
		return fmt.Errorf("atom size %d", atom)
	case !validName(sb.Name):
		return fmt.Errorf("name %q", sb.Name)
	case sb.SlotBytes < 2*atom || sb.SlotBytes%atom != 0 || sb.SlotBytes > maxDeviceBytes/4:
		return fmt.Errorf("slots of %d bytes", sb.SlotBytes)
	case sb.LogBytes < minLogAtoms*atom || sb.LogBytes%atom != 0 || sb.LogBytes > maxLogBytes:
		return fmt.Errorf("logs of %d bytes", sb.LogBytes)
	case sb.Epoch == 0 || sb.Generation == 0:
		return fmt.Errorf("epoch %d, generation %d", sb.Epoch, sb.Generation)
	}
	return nil
}

func (l *Layout) checkDevices() error {
	sb, seen := &l.sb, map[uuid.UUID]bool{}
	for i, d := range sb.Devices {
		role := RoleSpare
		if i == 0 {
			role = RoleBacking
		}
		if d.Role != role || d.Size < RegionStart || d.Size > maxDeviceBytes || seen[d.UUID] ||
			d.BlockSize != 0 && (d.BlockSize < 512 || d.BlockSize > sb.BlockSize ||
				d.BlockSize&(d.BlockSize-1) != 0) {
			return fmt.Errorf("device %d: %s, %d bytes in blocks of %d, uuid %s", i, d.Role, d.Size,
				d.BlockSize, d.UUID)
		}
		seen[d.UUID] = true
	}
	return nil
}

// checkDisplaced checks where the displaced head ends and the displaced tail begins.
func (l *Layout) checkDisplaced() error {
	sb, backing := &l.sb, l.sb.Devices[0].Size
	if sb.HeadBytes < RegionStart || sb.HeadBytes%headAlign != 0 ||
		sb.ExportedBytes%int64(sb.BlockSize) != 0 || sb.ExportedBytes <= sb.HeadBytes ||
		sb.ExportedBytes > backing {
		return fmt.Errorf("head of %d bytes, %d bytes exported, of %d", sb.HeadBytes,
			sb.ExportedBytes, backing)
	}
	tail := sb.Incompat&incompatTail != 0
	if tail != (sb.TailStart != 0) || tail && (sb.TailStart%headAlign != 0 ||
		sb.TailStart < sb.HeadBytes || sb.TailStart >= sb.ExportedBytes ||
		sb.TailStart > roundDown(tailSuperblock(backing), int64(sb.AtomSize))) {
		return fmt.Errorf("a tail from %d on, of %d bytes exported", sb.TailStart, sb.ExportedBytes)
	}
	return nil
}

// checkRegions checks each region, that no two of them overlap, and that none is missing.
func (l *Layout) checkRegions() error {
	sb := &l.sb
	kinds := map[RegionKind]int{}
	for i := range sb.Regions {
		r := &sb.Regions[i]
		if err := l.checkPlace(i, r); err != nil {
			return err
		}
		if err := l.addRegion(i, r); err != nil {
			return err
		}
		for j := range i {
			o := &sb.Regions[j]
			if o.Device == r.Device && o.Start < r.Start+r.Length && r.Start < o.Start+o.Length {
				return fmt.Errorf("regions %d and %d overlap", j, i)
			}
		}
		kinds[r.Kind]++
	}
	heads, tails, wantTails := kinds[RegionDisplacedHead], kinds[RegionDisplacedTail], 0
	if sb.TailStart != 0 {
		wantTails = 1
	}
	if tails != wantTails {
		return fmt.Errorf("%d displaced tails", tails)
	}
	onBacking := slices.ContainsFunc(l.mirrors,
		func(i int) bool { return sb.Regions[i].Device == 0 })
	if heads != 1 || !onBacking || len(l.spares) == 0 || len(l.mirrors) > maxMirrors {
		return fmt.Errorf("%d displaced heads, %d mirrors, %d spare regions", heads, len(l.mirrors),
			len(l.spares))
	}
	return nil
}

// checkPlace checks that a region lies within its device, and neither in superblocks nor in
// the data.
func (l *Layout) checkPlace(i int, r *Region) error {
	sb := &l.sb
	end := sb.Devices[r.Device].Size
	if r.Device == 0 && sb.hasTail() {
		end = tailSuperblock(end)
	}
	if r.Start < sb.firstRegion(r.Device) || r.Length <= 0 || r.Start%PageSize != 0 ||
		r.Length%PageSize != 0 || r.Start > end || r.Length > end-r.Start {
		return fmt.Errorf("region %d (%s): %d bytes at %d of device %d", i, r.Kind, r.Length,
			r.Start, r.Device)
	}
	if r.Device == 0 && r.Start < sb.ExportedBytes && r.Start+r.Length > sb.HeadBytes {
		return fmt.Errorf("region %d (%s) at %d lies in the data", i, r.Kind, r.Start)
	}
	return nil
}

// addRegion checks what depends on the kind of a region, and notes where it is.
func (l *Layout) addRegion(i int, r *Region) error {
	sb := &l.sb
	switch r.Kind {
	case RegionMirror:
		slot, larger := sb.MirrorSlot(r), sb.Incompat&incompatSlots != 0
		if r.Length != sb.mirrorLength(slot) || slot%int64(sb.AtomSize) != 0 ||
			slot < sb.SlotBytes || slot > sb.SlotBytes && !larger ||
			r.Start%int64(sb.AtomSize) != 0 {
			return fmt.Errorf("mirror at %d of device %d has %d bytes", r.Start, r.Device,
				r.Length)
		}
		l.mirrors = append(l.mirrors, i)
	case RegionSpare:
		if uint64(r.First) != l.spareUnits {
			return fmt.Errorf("spare region %d begins with unit %d, not %d", i, r.First,
				l.spareUnits)
		}
		l.spares = append(l.spares, *r)
		l.spareUnits += uint64(r.Length) / UnitSize
		if l.spareUnits > math.MaxUint32 {
			return fmt.Errorf("%d spare units", l.spareUnits)
		}
	case RegionDisplacedHead:
		if r.Length != sb.HeadBytes {
			return fmt.Errorf("displaced head of %d bytes for a head of %d", r.Length,
				sb.HeadBytes)
		}
		l.headDev, l.headStart = r.Device, r.Start
	case RegionDisplacedTail:
		if r.Length != roundUp(sb.ExportedBytes-sb.TailStart, PageSize) {
			return fmt.Errorf("displaced tail of %d bytes for the bytes from %d on", r.Length,
				sb.TailStart)
		}
		l.tailDev, l.tailStart = r.Device, r.Start
	default:
		return fmt.Errorf("region %d is a %s", i, r.Kind)
	}
	return nil
}

// countBlocks derives the numbers of blocks and units from the sizes in bytes.
func (l *Layout) countBlocks() {
	sb := &l.sb
	l.blockShift = uint8(bits.TrailingZeros32(sb.BlockSize))
	l.headBlocks = uint64(sb.HeadBytes) >> l.blockShift
	l.blocks = uint64(sb.ExportedBytes) >> l.blockShift
	l.tailBlock = l.blocks
	if sb.TailStart != 0 {
		l.tailBlock = uint64(sb.TailStart) >> l.blockShift
	}
	per := uint64(UnitSize / sb.BlockSize)
	l.lim = limits{units: (l.blocks + per - 1) / per, spareUnits: l.spareUnits,
		mask: uint8(1<<per - 1), lastMask: uint8(1<<per - 1)}
	if rest := l.blocks % per; rest != 0 {
		l.lim.lastMask = uint8(1<<rest - 1)
	}
}

// hasTail reports whether the backing carries a superblock at its end: where data
// does not reach to the end of it, or was displaced from there.
func (sb *Superblock) hasTail() bool {
	return sb.TailStart != 0 || sb.ExportedBytes <= roundDown(tailSuperblock(sb.Devices[0].Size),
		max(int64(sb.AtomSize), PageSize))
}

// copies are the offsets of the superblock on the device with that index, in
// the order in which they are written: byte 0 last.
func (sb *Superblock) copies(device uint8) []int64 {
	switch {
	case device == 0 && sb.hasTail():
		tail := tailSuperblock(sb.Devices[0].Size)
		if sb.Compat&compatFourth != 0 {
			return []int64{SuperblockStride, tail, tail + fourthStride, 0}
		}
		return []int64{SuperblockStride, tail, 0}
	case sb.Compat&compatThird != 0:
		return []int64{SuperblockStride, thirdSuperblock(int64(sb.AtomSize)), 0}
	}
	return []int64{SuperblockStride, 0}
}

// displacedCopies are the copies on the backing at the places that displaced data comes from, in
// the head and the tail. They are in the order in which they are written: byte 0 last.
func (sb *Superblock) displacedCopies() []int64 {
	return slices.DeleteFunc(sb.copies(0), func(off int64) bool { return !sb.isDisplaced(off) })
}

// isDisplaced reports whether displaced data comes from a byte of the backing.
func (sb *Superblock) isDisplaced(off int64) bool {
	return off < sb.HeadBytes || sb.TailStart != 0 && off >= sb.TailStart
}

// displacedSpans are the exported bytes that live elsewhere than at their own offset: the
// head, and the tail if that is displaced.
func (sb *Superblock) displacedSpans() []span {
	all := []span{{0, sb.HeadBytes}}
	if sb.TailStart != 0 {
		all = append(all, span{sb.TailStart, sb.ExportedBytes})
	}
	return all
}

// thirdSuperblock is where the third copy lies on a device that has none at its
// end: between the first two, or, where an atom reaches from one to the other,
// behind them. It shares no physical block with either.
func thirdSuperblock(atom int64) int64 {
	if atom <= SuperblockStride/2 {
		return SuperblockStride / 2
	}
	return RegionStart
}

// firstRegion is the first byte behind the superblocks at the start of a device.
func (sb *Superblock) firstRegion(device uint8) int64 {
	third := sb.Compat&compatThird != 0 && (device != 0 || !sb.hasTail())
	if third && thirdSuperblock(int64(sb.AtomSize)) == RegionStart {
		return RegionStart + SuperblockStride
	}
	return RegionStart
}

// SuperblockPlaces are the offsets of the superblocks on a device of the set, in bytes,
// in the order in which they are written.
func (l *Layout) SuperblockPlaces(device uint8) []int64 { return l.sb.copies(device) }

// Superblock returns a copy of the superblock that the layout comes from.
func (l *Layout) Superblock() Superblock { return *l.sb.clone() }

// BlockSize is the size of an exported block, in bytes.
func (l *Layout) BlockSize() int { return int(l.sb.BlockSize) }

// Blocks is how many blocks are exported.
func (l *Layout) Blocks() uint64 { return l.blocks }

// Units is how many units are exported; the last one may be partial.
func (l *Layout) Units() uint64 { return l.lim.units }

// HeadBlocks is how many blocks, from block 0 on, live in the displaced head
// and not at their own offset. It is a whole number of units.
func (l *Layout) HeadBlocks() uint64 { return l.headBlocks }

// TailBlocks is how many blocks, the last ones, live in the displaced tail and not at their own
// offset. Except at the end of the device it is a whole number of units.
func (l *Layout) TailBlocks() uint64 { return l.blocks - l.tailBlock }

// Displaced is a range of exported bytes that does not live at its own offset of the
// backing, and where it lives instead.
type Displaced struct {
	Start, Length int64 // exported bytes
	Device        uint8
	Offset        int64 // of Device
}

// Displaced returns the head, and the tail if that is displaced.
func (l *Layout) Displaced() []Displaced {
	all := []Displaced{{0, l.sb.HeadBytes, l.headDev, l.headStart}}
	if l.sb.TailStart != 0 {
		all = append(all, Displaced{l.sb.TailStart, l.sb.ExportedBytes - l.sb.TailStart, l.tailDev,
			l.tailStart})
	}
	return all
}

// displaced reports whether a block lives in the displaced head or tail.
func (l *Layout) displaced(block uint64) bool {
	return block < l.headBlocks ||
		block >= l.tailBlock
}

// SpareUnits is how many spare units there are, over all spare regions.
func (l *Layout) SpareUnits() uint64 { return l.spareUnits }

// SpareRegions returns the spare regions in order of their units. The caller
// must not change them.
func (l *Layout) SpareRegions() []Region { return l.spares }

// Devices returns the device table; the backing is device 0. The caller must
// not change it.
func (l *Layout) Devices() []DeviceInfo { return l.sb.Devices }

// TableCapacity is how many entries a checkpoint can hold, on the mirror with the smallest
// slots. A Source must never have more, or checkpoints fail and the log fills up. While a set is
// served its mirrors may get larger slots: Committer.TableCapacity is the bound then.
func (l *Layout) TableCapacity() uint64 { return l.sb.tableCapacity() }

// ValidateEntry checks an entry against the layout; the error is
// ErrInvalidEntry.
func (l *Layout) ValidateEntry(e Entry) error { return l.lim.validate(&e) }

// HomeOf returns where block lives when it is not remapped: a device index and
// a byte offset. Blocks on either side of HeadBlocks, or of where the tail begins,
// are not next to each other. block must be less than Blocks.
func (l *Layout) HomeOf(block uint64) (device uint8, offset int64) {
	offset = int64(block << l.blockShift)
	if block < l.headBlocks {
		return l.headDev, l.headStart + offset
	}
	if block >= l.tailBlock {
		return l.tailDev, l.tailStart + offset - l.sb.TailStart
	}
	return 0, offset
}

// SpareOf returns where a spare unit lies: a device index and a byte offset.
// unit must be less than SpareUnits.
func (l *Layout) SpareOf(unit uint32) (device uint8, offset int64) {
	r := &l.spares[0]
	for i := len(l.spares) - 1; i > 0; i-- {
		if unit >= l.spares[i].First {
			r = &l.spares[i]
			break
		}
	}
	return r.Device, r.Start + int64(unit-r.First)*UnitSize
}
