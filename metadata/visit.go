package metadata

// inventory is what the devices of a set hold, read once. Check, Dump, PlanRepair and
// PlanRestore all use it, so that they cannot disagree about what a set holds.
type inventory struct {
	devs  []Device      // as given
	found []superblocks // of each of devs
	stage stage         // how far it got
	err   error         // why it got no further
	img   *Image        // from stageDevices on
	table *Table        // nil: none; it contradicts itself if stage is not stageTable
}

// stage is how far an inventory got.
type stage uint8

const (
	stageSuperblocks stage = iota // the devices cannot be put in order
	stageDevices                  // they are in order; what their mirrors hold makes no sense
	stageMirrors                  // logs and headers are read; what is the newest is not known
	stageRecords                  // the newest record is known, and all that it rests on
	stageTable                    // the table is valid
)

// examine makes an inventory and calls f with it. It repeats both if a place that did not
// read before reads afterwards (settled), so f must not change anything outside of its result.
// With partial, spare devices may be missing. The error is that of f, or ErrPath.
func examine[T any](devs []Device, partial bool, f func(*inventory) (T, error)) (T, error) {
	devs = withRetries(devs)
	return untilStable(devs, func() (T, error) { return f(takeInventory(devs, partial)) })
}

// takeInventory reads everything, except for pages and entries that only visitors need.
func takeInventory(devs []Device, partial bool) *inventory {
	inv := &inventory{devs: devs, found: superblocksOf(devs)}
	if inv.img, inv.err = arrange(devs, inv.found, partial); inv.err != nil {
		return inv
	}
	inv.stage = stageDevices
	if inv.err = inv.img.scan(); inv.err != nil {
		return inv
	}
	inv.stage = stageMirrors
	if inv.err = inv.img.followChain(); inv.err != nil {
		return inv
	}
	inv.stage = stageRecords
	if inv.table, inv.err = inv.img.Table(); inv.err == nil {
		inv.stage = stageTable
	}
	return inv
}

// loads says why the set does not load, or has no valid table; nil if it does.
func (inv *inventory) loads() error {
	if inv.stage >= stageDevices {
		if err := inv.img.sb.Unfinished(); err != nil {
			return err
		}
	}
	return inv.err
}

// visitor gets the parts of an inventory, in this order:
//
//  1. superblocks of every device;
//  2. devices, if they can be put in order;
//  3. for every mirror that can be read: mirror, then its checkpoint slots, then its log slots
//     except the empty ones (record), then mirrorEnd;
//  4. table, if there is one.
type visitor interface {
	superblocks(given int, d Device, s *superblocks)
	devices(*Image)
	mirror(*mirrorImage)
	checkpoint(*checkpointSeen)
	record(*recordSeen)
	mirrorEnd(*mirrorImage)
	table(*Table)
}

// checkpointSeen is a checkpoint slot of a mirror.
type checkpointSeen struct {
	mirror *mirrorImage
	slot   int
	header *header // nil: none
	unread bool    // the header cannot be read
	bad    int     // pages that this copy lacks
	used   bool    // the table begins with it
}

// recordSeen is a log slot that holds a record, or holds none that can be read.
type recordSeen struct {
	*logSlot
	mirror *mirrorImage
	slot   int
	used   bool // the table rests on it
	void   bool // it is newer than the checkpoint, and superseded
	img    *Image
}

// entries reads the entries of this copy of the record. There are none if it can no longer
// be read.
func (r *recordSeen) entries(page []byte) []Entry {
	out := []Entry{}
	dev := r.img.devs[r.mirror.device]
	if _, err := dev.ReadAt(page[:PageSize], r.mirror.logOffset(r.slot)); err != nil {
		return out
	}
	if got, ok := decodeRecord(page, &r.img.sb.UUID); ok && got.link == r.link {
		decode := decodersOf(page).recordEntry
		for i := range int(r.count) {
			e, _ := decode(page, i)
			out = append(out, e)
		}
	}
	return out
}

// visit calls the methods of v.
func (inv *inventory) visit(v visitor) {
	for i := range inv.found {
		v.superblocks(i, inv.devs[i], &inv.found[i])
	}
	if inv.stage < stageDevices {
		return
	}
	v.devices(inv.img)
	if inv.stage < stageMirrors {
		return
	}
	chain := map[link]bool{}
	for i := range inv.img.chain {
		chain[inv.img.chain[i].link] = true
	}
	for i := range inv.img.mirrors {
		inv.visitMirror(v, &inv.img.mirrors[i], chain)
	}
	if inv.table != nil {
		v.table(inv.table)
	}
}

func (inv *inventory) visitMirror(v visitor, m *mirrorImage, chain map[link]bool) {
	known := inv.stage >= stageRecords
	v.mirror(m)
	for slot, h := range m.headers {
		c := checkpointSeen{mirror: m, slot: slot, header: h, unread: m.unread>>slot&1 != 0}
		if h != nil {
			c.bad = inv.img.badPages(m, slot, h)
			c.used = known && *h == inv.img.checkpoint.header
		}
		v.checkpoint(&c)
	}
	for i := range m.slots {
		s := &m.slots[i]
		if s.state == slotNone {
			continue
		}
		r := recordSeen{logSlot: s, mirror: m, slot: i, img: inv.img}
		if known && s.state == slotRecord {
			r.used = chain[s.link]
			r.void = !r.used && inv.img.checkpoint.covers.Less(s.Position)
		}
		v.record(&r)
	}
	v.mirrorEnd(m)
}

// baseVisitor is embedded by visitors that need only some of the methods.
type baseVisitor struct{}

func (baseVisitor) superblocks(int, Device, *superblocks) {}
func (baseVisitor) devices(*Image)                        {}
func (baseVisitor) mirror(*mirrorImage)                   {}
func (baseVisitor) checkpoint(*checkpointSeen)            {}
func (baseVisitor) record(*recordSeen)                    {}
func (baseVisitor) mirrorEnd(*mirrorImage)                {}
func (baseVisitor) table(*Table)                          {}

// each calls f with the fewest entries that state the table, in order, until f returns an
// error.
func (t *Table) each(f func(Entry) error) error {
	var page [entriesPerPage]Entry
	for cursor, done := uint64(0), false; !done; {
		var n int
		n, cursor, done = t.Entries(cursor, page[:])
		for _, e := range page[:n] {
			if err := f(e); err != nil {
				return err
			}
		}
	}
	return nil
}
