package blockdev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Kind says what sort of thing a signature announces.
type Kind string

const (
	KindFilesystem Kind = "file system"
	KindPartitions Kind = "partition table"
	KindRAID       Kind = "RAID member"
	KindVolume     Kind = "volume manager"
	KindCrypto     Kind = "encrypted volume"
	KindSwap       Kind = "swap space"
	KindCache      Kind = "cache"
	KindRemap      Kind = "dm-remap metadata"
)

// Signature is one mark found on a device.
type Signature struct {
	Kind   Kind
	Name   string // as libblkid would call it, e.g. "ext4"
	Offset int64  // byte on the device where the mark is
	Length int    // bytes of the mark
	// AtEnd says that the mark's place depends on the device's size. If the device were exported
	// with another size, the mark would stay visible on the backing, or would be cut off.
	AtEnd bool
}

// String says what was found and where.
func (s Signature) String() string {
	return fmt.Sprintf("%s (%s, at byte %d)", s.Name, s.Kind, s.Offset)
}

// Findings is what Detect found.
type Findings struct {
	Signatures []Signature
	// Unread lists the places where a mark could be but which cannot be read.
	Unread []int64
	// Blank says that the readable parts of the device's first and last 2 MiB are all zeroes.
	Blank bool
}

// scanEnds is how much of each end is examined for Blank.
const scanEnds = 2 << 20

// Detect looks for known marks on a device of size bytes. Unreadable places do not stop it. It
// lists them. The marks and their places are those of the formats' own documents and headers. Each
// entry of the table is checked by itself, so one device can have several marks.
func Detect(r io.ReaderAt, size int64) Findings {
	p := newProber(r, size, 0)
	var f Findings
	for i := range table {
		e := &table[i]
		for _, at := range e.places(size) {
			if s, ok := e.match(p, at); ok {
				f.Signatures = append(f.Signatures, s)
				break
			}
		}
	}
	if s, ok := mbr(p, f.Signatures); ok {
		f.Signatures = append(f.Signatures, s)
	}
	f.Unread = p.failed
	f.Blank = p.blank(0, min(size, scanEnds)) && p.blank(max(0, size-scanEnds), size)
	return f
}

// DetectEnd looks only for the marks whose place depends on where the device ends.
func DetectEnd(r io.ReaderAt, size int64) []Signature {
	p := newProber(r, size, 0)
	var found []Signature
	for i := range table {
		e := &table[i]
		if e.atEnd == nil {
			continue
		}
		for _, at := range e.atEnd(size) {
			if s, ok := e.match(p, at); ok && s.AtEnd {
				found = append(found, s)
				break
			}
		}
	}
	return found
}

func zero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// mark is one row of the table.
type mark struct {
	kind  Kind
	name  string
	at    []int64                // bytes from the start
	atEnd func(int64) []int64    // places that depend on the size
	magic []byte                 // what must be there
	more  func(b, m []byte) bool // examines `around` bytes from the place less `before`
	// before and around define more's window. It starts before bytes ahead of the place and is
	// around bytes long.
	before int64
	around int
	naming func(window []byte) string
}

func (m *mark) places(size int64) []int64 {
	places := m.at
	if m.atEnd != nil {
		places = append(append([]int64(nil), places...), m.atEnd(size)...)
	}
	return places
}

func (m *mark) match(p *prober, at int64) (Signature, bool) {
	b := p.at(at, len(m.magic))
	if b == nil || !bytes.Equal(b, m.magic) {
		return Signature{}, false
	}
	s := Signature{Kind: m.kind, Name: m.name, Offset: at, Length: len(m.magic)}
	for _, a := range m.at {
		if a == at {
			goto placed
		}
	}
	s.AtEnd = true
placed:
	if m.around > 0 {
		w := p.at(at-m.before, m.around)
		if w == nil || m.more != nil && !m.more(w, b) {
			return Signature{}, false
		}
		if m.naming != nil {
			s.Name = m.naming(w)
		}
	}
	return s, true
}

// mbr looks for a DOS partition table. Its mark, 55 AA at byte 510, is also the mark of boot
// sectors. So the four entries at byte 446 must make sense, and no file system with a boot sector
// may have been found. The table in a superblock of this program is none: it only shows other tools
// that the disk is in use.
func mbr(p *prober, found []Signature) (Signature, bool) {
	b := p.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa || bytes.HasPrefix(b, remapMagic) {
		return Signature{}, false
	}
	for _, s := range found {
		switch s.Name {
		case "vfat", "exfat", "ntfs", "refs":
			return Signature{}, false
		}
	}
	name, used := "dos", false
	for i := range 4 {
		e := b[446+16*i : 462+16*i]
		if e[0]&0x7f != 0 {
			return Signature{}, false
		}
		if e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) != 0 {
			used = true
		}
		if e[4] == 0xee {
			name = "PMBR"
		}
	}
	return Signature{Kind: KindPartitions, Name: name, Offset: 510, Length: 2}, used
}
