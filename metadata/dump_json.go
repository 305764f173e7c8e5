package metadata

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// WriteJSON writes one JSON document, in pieces, because it can have hundreds of megabytes. indent
// is that of each level. No piece ends within a character. After an error of w the closing brace is
// missing, so that the document is not taken for a whole one.
//
// DecodeDump makes a backup of the document if the set loads and no device of it is missing.
func (d *DumpResult) WriteJSON(w io.Writer, indent string) error {
	p := printer{out: bufio.NewWriterSize(w, 64<<10), indent: indent}
	var sum *dumpSum
	if d.backup != nil {
		sum = newDumpSum(d.backup.Superblock)
	}
	p.open("{")
	p.name("superblocks")
	p.open("[")
	for i := range d.Superblocks {
		p.element()
		p.value(&d.Superblocks[i])
	}
	p.close("]")
	p.name("mirrors")
	p.open("[")
	for i := range d.Mirrors {
		p.element()
		d.Mirrors[i].print(&p)
	}
	p.close("]")
	p.member("position", d.Position)
	p.name("table")
	p.open("[")
	err := d.Each(func(e Entry) error {
		if sum != nil {
			sum.entry(&e)
		}
		p.element()
		p.value(e)
		return p.err
	})
	if err != nil {
		return err
	}
	p.close("]")
	p.member("counts", d.Counts)
	if len(d.Events) > 0 {
		p.name("events")
		p.open("[")
		for i := range d.Events {
			p.element()
			p.value(&d.Events[i])
		}
		p.close("]")
	}
	if sum != nil {
		p.member("checksum", hex64(d.backup.tip.Hash))
		p.member("sum", hex64(sum.end(d.backup.tip)))
	}
	if d.Error != "" {
		p.member("error", d.Error)
	}
	return p.end("}\n")
}

func (m *MirrorDump) print(p *printer) {
	p.open("{")
	p.member("device", m.Device)
	p.member("start", m.Start)
	p.member("stale", m.Stale)
	p.member("checkpoints", m.Checkpoints)
	p.name("records")
	p.open("[")
	for i := range m.Records {
		p.element()
		p.value(&m.Records[i])
	}
	p.close("]")
	p.member("unreadable_slots", m.Unreadable)
	p.member("damaged_slots", m.Damaged)
	p.close("}")
}

// dumpSum is the checksum over what a restore uses of a dump: the superblock, the entries in
// their order, and the link of the newest record. It leaves out the session of the
// superblock, a 64-bit number that many readers of JSON round. A restore does not use it. It
// leaves out the partition as well, so that versions that do not know it have the same sum.
type dumpSum struct {
	digest xxhash.Digest
	b      [PageSize]byte
}

func newDumpSum(sb *Superblock) *dumpSum {
	s := &dumpSum{}
	s.digest.Reset()
	without := sb.clone()
	without.Session = 0
	without.encode(s.b[:], 0)
	without.clearPartition(s.b[:])
	seal(s.b[:])
	s.digest.Write(s.b[:])
	return s
}

func (s *dumpSum) entry(e *Entry) {
	putEntry(s.b[:entrySize], e)
	s.digest.Write(s.b[:entrySize])
}

func (s *dumpSum) end(tip link) uint64 {
	putLink(s.b[:], tip)
	s.digest.Write(s.b[:linkSize])
	return s.digest.Sum64()
}

// hex64 is a number as text of 16 digits, since many readers of JSON round large numbers.
func hex64(n uint64) string { return fmt.Sprintf("%016x", n) }

// printer writes indented JSON in pieces, as json.MarshalIndent writes it in one. The first
// error ends it.
type printer struct {
	out    *bufio.Writer
	indent string
	depth  int
	more   bool // something stands before, in the innermost list or object
	err    error
}

func (p *printer) text(s string) { p.bytes([]byte(s)) }

// bytes writes b whole, so that no piece ends within a character.
func (p *printer) bytes(b []byte) {
	if p.err == nil && len(b) > p.out.Available() {
		p.err = p.out.Flush()
	}
	if p.err == nil {
		_, p.err = p.out.Write(b)
	}
}

func (p *printer) line() { p.text("\n" + strings.Repeat(p.indent, p.depth)) }

func (p *printer) open(bracket string) {
	p.text(bracket)
	p.depth++
	p.more = false
}

func (p *printer) close(bracket string) {
	p.depth--
	if p.more {
		p.line()
	}
	p.text(bracket)
	p.more = true
}

// end closes the document once all before it is written.
func (p *printer) end(bracket string) error {
	p.depth--
	if p.err == nil {
		p.err = p.out.Flush()
	}
	p.line()
	p.text(bracket)
	if p.err != nil {
		return p.err
	}
	return p.out.Flush()
}

// element begins the next one of a list or an object.
func (p *printer) element() {
	if p.more {
		p.text(",")
	}
	p.line()
	p.more = true
}

func (p *printer) name(name string) {
	p.element()
	p.text(`"` + name + `": `)
}

func (p *printer) value(v any) {
	b, err := json.MarshalIndent(v, strings.Repeat(p.indent, p.depth), p.indent)
	if err != nil && p.err == nil {
		p.err = err
	}
	p.bytes(b)
}

func (p *printer) member(name string, v any) {
	p.name(name)
	p.value(v)
}
