package metadata

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
)

// Limits of a dump that is read, so that no document needs unbounded memory.
const (
	dumpValue  = 1 << 20 // bytes of a value that is read at once
	dumpDepth  = 16      // levels
	dumpCopies = 16 * MaxDevices
)

// DecodeDump reads what WriteJSON wrote, to its end, and makes a backup of it. Besides the
// table only one value of the document is in memory at a time. Superblocks and position must
// come before the table. Errors: ErrBackup, ErrUnsupported, ErrUnfinished, and those of
// the reader.
func DecodeDump(r io.Reader) (*Backup, error) {
	in := &meter{r: r}
	d := dumpDecoder{in: in, json: json.NewDecoder(in), seen: map[string]bool{}}
	d.json.DisallowUnknownFields()
	d.json.UseNumber()
	b, err := d.document()
	switch {
	case err == nil:
		return b, nil
	case in.err != nil:
		return nil, in.err
	case errors.Is(err, ErrBackup) || errors.Is(err, ErrUnsupported) ||
		errors.Is(err, ErrUnfinished):
		return nil, err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: the dump was cut off, it ends in the middle after %d bytes",
			ErrBackup, in.read)
	}
	return nil, fmt.Errorf("%w: byte %d of the dump: %w", ErrBackup, d.json.InputOffset(), err)
}

// meter fails when a value is longer than dumpValue, and keeps the error of the reader.
type meter struct {
	r           io.Reader
	read, limit int64
	err         error
}

func (m *meter) Read(b []byte) (int, error) {
	if m.err == nil && m.read >= m.limit {
		m.err = fmt.Errorf("%w: the dump has a value of more than %d bytes", ErrBackup, dumpValue)
	}
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.r.Read(b[:min(int64(len(b)), m.limit-m.read)])
	m.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

// dumpDecoder reads one dump.
type dumpDecoder struct {
	in   *meter
	json *json.Decoder
	seen map[string]bool // members that were read

	copies   []SuperblockCopy
	position Position
	table    *backupReader
	computed *dumpSum
	counts   TableCounts
	checksum uint64
	sum      uint64
	failed   string // why there was nothing to restore, as the dump says
	refused  error  // why its superblocks are not believed
}

func (d *dumpDecoder) document() (*Backup, error) {
	if err := d.delim('{'); err != nil {
		return nil, err
	}
	for d.more() {
		name, err := d.token()
		if err != nil {
			return nil, err
		}
		if err := d.member(name.(string)); err != nil { // the syntax allows nothing else
			return nil, err
		}
	}
	if err := d.delim('}'); err != nil {
		return nil, err
	}
	if _, err := d.token(); d.in.err == nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is something behind its end", ErrBackup)
	}
	return d.backup()
}

// member reads the value of one.
func (d *dumpDecoder) member(name string) error {
	read := map[string]func() error{
		"superblocks": d.superblocks,
		"position":    func() error { return d.value(&d.position) },
		"table":       d.entries,
		"counts":      func() error { return d.value(&d.counts) },
		"checksum":    func() error { return d.hex(&d.checksum) },
		"sum":         func() error { return d.hex(&d.sum) },
		"error":       func() error { return d.value(&d.failed) },
	}[name]
	if read == nil {
		return d.skip()
	}
	if d.seen[name] {
		return fmt.Errorf("%w: the dump has %q twice", ErrBackup, name)
	}
	d.seen[name] = true
	return read()
}

func (d *dumpDecoder) superblocks() error {
	return d.list(func() error {
		if len(d.copies) == dumpCopies {
			return fmt.Errorf("%w: the dump has more than %d superblocks", ErrBackup, dumpCopies)
		}
		var c SuperblockCopy
		err := d.value(&c)
		d.copies = append(d.copies, c)
		return err
	})
}

// entries reads the table. If the superblocks are not valid it skips the table: the member "error",
// which comes later, may give a better reason.
func (d *dumpDecoder) entries() error {
	if !d.seen["superblocks"] || !d.seen["position"] {
		return fmt.Errorf("%w: the table of the dump comes before its superblocks and its position",
			ErrBackup)
	}
	if d.refused = d.begin(); d.refused != nil {
		return d.skip()
	}
	most := d.table.layout.TableCapacity()
	return d.list(func() error {
		var e Entry
		if err := d.value(&e); err != nil {
			return err
		}
		d.computed.entry(&e)
		if d.table.read == most {
			return fmt.Errorf("%w: the dump has more entries than a checkpoint holds, %d",
				ErrBackup, most)
		}
		return d.table.add(e)
	})
}

// begin prepares for the table of the set that the superblocks are of.
func (d *dumpDecoder) begin() error {
	sb, err := d.backing()
	if err != nil {
		return err
	}
	page := make([]byte, PageSize)
	sb.encode(page, 0)
	if d.table, err = newBackupReader(page, link{Position: d.position}); err != nil {
		return err
	}
	if !reflect.DeepEqual(d.table.sb, sb) {
		return fmt.Errorf("%w: the superblock of the dump contradicts itself", ErrBackup)
	}
	d.computed = newDumpSum(sb)
	return nil
}

// backing elects the superblock of the backing among its copies, as a load does. Every device
// of the set must have been there.
func (d *dumpDecoder) backing() (*Superblock, error) {
	of := map[int][]foundCopy{}
	var order []int
	for i := range d.copies {
		c := &d.copies[i]
		at := foundCopy{offset: c.Offset, sb: c.Superblock}
		if c.Error != "" || c.Superblock == nil {
			at.err = errors.New(c.Error)
		}
		if of[c.Device] == nil {
			order = append(order, c.Device)
		}
		of[c.Device] = append(of[c.Device], at)
	}
	var backing *Superblock
	there := map[uint8]bool{}
	for _, device := range order {
		sb, err := elect(of[device])
		switch {
		case err != nil || sb == nil:
			continue
		case sb.DeviceIndex != 0:
		case backing != nil:
			return nil, fmt.Errorf("%w: the dump has superblocks of two backing devices", ErrBackup)
		default:
			backing = sb
		}
		there[sb.DeviceIndex] = true
	}
	switch {
	case backing == nil:
		return nil, fmt.Errorf("%w: the dump has no superblock of the backing", ErrBackup)
	case len(backing.Devices) == 0 || len(backing.Devices) > MaxDevices ||
		len(backing.Regions) > MaxRegions:
		return nil, fmt.Errorf("%w: the dump has a superblock with %d devices and %d regions",
			ErrBackup, len(backing.Devices), len(backing.Regions))
	}
	for i := range backing.Devices {
		if !there[uint8(i)] {
			return nil, fmt.Errorf("%w: %s device %s of the set was missing when the dump was "+
				"made", ErrBackup, backing.Devices[i].Role, backing.Devices[i].UUID)
		}
	}
	return backing, nil
}

// backup checks that every member is there and that the sum matches.
func (d *dumpDecoder) backup() (*Backup, error) {
	switch {
	case d.failed != "":
		return nil, fmt.Errorf("%w: the set did not load when the dump was made: %q", ErrBackup,
			d.failed)
	case d.refused != nil:
		return nil, d.refused
	case d.table == nil:
		return nil, fmt.Errorf("%w: a JSON document without a table: no dump of a set", ErrBackup)
	case !d.seen["sum"] || !d.seen["checksum"] || !d.seen["counts"]:
		return nil, fmt.Errorf("%w: the dump lacks what tells that it is whole, \"counts\", "+
			"\"checksum\" and \"sum\": an older version made it", ErrBackup)
	}
	d.table.tip.Hash = d.checksum
	if got := d.computed.end(d.table.tip); got != d.sum {
		return nil, fmt.Errorf("%w: the dump was changed or damaged: its sum is %016x, it says "+
			"%016x", ErrBackup, got, d.sum)
	}
	b, err := d.table.backup()
	if err != nil {
		return nil, err
	}
	if b.Table != d.counts {
		return nil, fmt.Errorf("%w: the table of the dump is not what its counts say", ErrBackup)
	}
	return b, nil
}

// list reads a list; f reads an element.
func (d *dumpDecoder) list(f func() error) error {
	if err := d.delim('['); err != nil {
		return err
	}
	for d.more() {
		if err := f(); err != nil {
			return err
		}
	}
	return d.delim(']')
}

func (d *dumpDecoder) token() (json.Token, error) {
	d.in.limit = d.json.InputOffset() + dumpValue
	return d.json.Token()
}

func (d *dumpDecoder) more() bool {
	d.in.limit = d.json.InputOffset() + dumpValue
	return d.json.More()
}

func (d *dumpDecoder) value(v any) error {
	d.in.limit = d.json.InputOffset() + dumpValue
	return d.json.Decode(v)
}

func (d *dumpDecoder) hex(n *uint64) error {
	var text string
	if err := d.value(&text); err != nil {
		return err
	}
	var err error
	if *n, err = strconv.ParseUint(text, 16, 64); err != nil || hex64(*n) != text {
		return fmt.Errorf("%w: the dump has %q where 16 hexadecimal digits belong", ErrBackup, text)
	}
	return nil
}

func (d *dumpDecoder) delim(want json.Delim) error {
	t, err := d.token()
	if err == nil && t != want {
		err = fmt.Errorf("%v where %v belongs", t, want)
	}
	return err
}

// skip reads over a value of any kind.
func (d *dumpDecoder) skip() error {
	for depth := 0; ; {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		switch {
		case depth == 0:
			return nil
		case depth > dumpDepth:
			return fmt.Errorf("%w: the dump has more than %d levels", ErrBackup, dumpDepth)
		}
	}
}

// unmarshalName finds which of the values from 0 to last has a name.
func unmarshalName[T interface {
	~uint8 | ~uint16 | ~uint32
	String() string
}](v *T, text []byte, last T) error {
	for n := T(0); n <= last; n++ {
		if n.String() == string(text) {
			*v = n
			return nil
		}
	}
	return fmt.Errorf("unknown name %q", text)
}

// UnmarshalText reads the name that MarshalText writes.
func (s *State) UnmarshalText(b []byte) error { return unmarshalName(s, b, StateAvailable) }

// UnmarshalText reads the name that MarshalText writes.
func (c *Cause) UnmarshalText(b []byte) error { return unmarshalName(c, b, CauseUnknown) }

// UnmarshalText reads the name that MarshalText writes.
func (r *Role) UnmarshalText(b []byte) error { return unmarshalName(r, b, RoleSpare) }

// UnmarshalText reads the name that MarshalText writes.
func (k *RegionKind) UnmarshalText(b []byte) error {
	return unmarshalName(k, b, RegionDisplacedTail)
}

// UnmarshalText reads the name that MarshalText writes.
func (t *Transition) UnmarshalText(b []byte) error {
	return unmarshalName(t, b, TransitionReverting)
}
