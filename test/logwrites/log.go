package logwrites

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Flags say what an entry is. See LOG_*_FLAG in drivers/md/dm-log-writes.c.
type Flags uint64

// The flags of an entry; none: a plain write.
const (
	Flush Flags = 1 << iota
	FUA
	Discard
	Mark
	Metadata

	known = Flush | FUA | Discard | Mark | Metadata
)

// Has reports whether one of the flags is set.
func (f Flags) Has(one Flags) bool { return f&one != 0 }

func (f Flags) String() string {
	var words []string
	for i, w := range []string{"flush", "fua", "discard", "mark", "metadata"} {
		if f.Has(1 << i) {
			words = append(words, w)
		}
	}
	if rest := f &^ known; rest != 0 {
		words = append(words, fmt.Sprintf("%#x", uint64(rest)))
	}
	if len(words) == 0 {
		return "write"
	}
	return strings.Join(words, "+")
}

const (
	magic      = 0x6a736677736872
	version    = 1
	superSize  = 28
	headerSize = 32
	// minSector and maxSector bound the logical block sizes that Linux has.
	minSector, maxSector = 512, 64 << 10
	// endMark is what the target writes when it is taken down.
	endMark = "dm-log-writes-end"
)

var (
	// ErrNoLog is returned by Read when what it reads is no log of a version
	// that it knows.
	ErrNoLog = errors.New("logwrites: no log of dm-log-writes")
	// ErrDamaged is returned by Read when an entry makes no sense, or the log
	// is shorter than its superblock says.
	ErrDamaged = errors.New("logwrites: the log is damaged")
)

// Entry is what the device was asked. Offsets and lengths are in bytes.
type Entry struct {
	Flags Flags
	// Off and Len are the place on the logged device; Len is 0 for a mark or a bare flush.
	Off, Len int64
	// Mark is the text of a mark.
	Mark string
	at   int64 // of the data in the log
}

func (e Entry) String() string {
	if e.Flags.Has(Mark) {
		return fmt.Sprintf("mark %q", e.Mark)
	}
	return fmt.Sprintf("%s %d+%d", e.Flags, e.Off, e.Len)
}

// plain reports whether the entry may stay in a volatile cache: neither FUA, nor flush, nor mark.
func (e *Entry) plain() bool { return !e.Flags.Has(Flush|FUA|Mark) && e.Len > 0 }

// Log is a log whose headers were read; the data stays where it is.
type Log struct {
	// SectorSize is what the log counts in, in bytes.
	SectorSize int64
	Entries    []Entry
	r          io.ReaderAt
}

// Read reads the headers of a log of at most size bytes. The log must not
// change as long as the Log is used.
func Read(r io.ReaderAt, size int64) (*Log, error) {
	var super [superSize]byte
	if _, err := r.ReadAt(super[:], 0); err != nil {
		return nil, fmt.Errorf("%w: superblock: %w", ErrNoLog, err)
	}
	le := binary.LittleEndian
	if m, v := le.Uint64(super[0:]), le.Uint64(super[8:]); m != magic || v != version {
		return nil, fmt.Errorf("%w: magic %#x, version %d", ErrNoLog, m, v)
	}
	count, sector := le.Uint64(super[16:]), int64(le.Uint32(super[24:]))
	if sector < minSector || sector > maxSector || sector&(sector-1) != 0 {
		return nil, fmt.Errorf("%w: sectors of %d bytes", ErrDamaged, sector)
	}
	if size < sector || count > uint64(size/sector-1) {
		return nil, fmt.Errorf("%w: %d entries in %d bytes", ErrDamaged, count, size)
	}
	l := &Log{SectorSize: sector, r: r}
	header := make([]byte, sector)
	pos := sector
	for n := range count {
		if size-pos < sector {
			return nil, fmt.Errorf("%w: entry %d of %d is past the end", ErrDamaged, n, count)
		}
		if _, err := r.ReadAt(header, pos); err != nil {
			return nil, fmt.Errorf("%w: entry %d at byte %d: %w", ErrDamaged, n, pos, err)
		}
		e, err := decode(header)
		if err != nil {
			return nil, fmt.Errorf("entry %d at byte %d: %w", n, pos, err)
		}
		pos += sector
		e.at = pos
		if !e.Flags.Has(Discard) {
			if e.Len > size-pos {
				return nil, fmt.Errorf("%w: %d bytes of entry %d are past the end", ErrDamaged,
					e.Len, n)
			}
			pos += e.Len
		}
		l.Entries = append(l.Entries, e)
	}
	return l, nil
}

// decode decodes the header of an entry, which is one sector long.
func decode(header []byte) (Entry, error) {
	le := binary.LittleEndian
	sector := uint64(len(header))
	at, n, flags, length := le.Uint64(header[0:]), le.Uint64(header[8:]),
		Flags(le.Uint64(header[16:])), le.Uint64(header[24:])
	const most = 1<<63 - 1
	switch {
	case flags&^known != 0:
		return Entry{}, fmt.Errorf("%w: flags %s", ErrDamaged, flags)
	case at > most/sector || n > most/sector || at*sector > most-n*sector:
		return Entry{}, fmt.Errorf("%w: %d sectors at sector %d", ErrDamaged, n, at)
	case flags.Has(Mark) && (flags != Mark || n != 0 || length > sector-headerSize):
		return Entry{}, fmt.Errorf("%w: a mark of %d bytes, flags %s, %d sectors", ErrDamaged,
			length, flags, n)
	case !flags.Has(Mark) && length != 0:
		// Written for DAX only, by kernels that could log it.
		return Entry{}, fmt.Errorf("%w: inline data of %d bytes", ErrDamaged, length)
	case n == 0 && !flags.Has(Mark|Flush):
		return Entry{}, fmt.Errorf("%w: %s of nothing", ErrDamaged, flags)
	}
	e := Entry{Flags: flags, Off: int64(at * sector), Len: int64(n * sector)}
	if flags.Has(Mark) {
		e.Off = 0
		e.Mark = string(bytes.TrimRight(header[headerSize:headerSize+length], "\x00"))
	}
	return e, nil
}

// Complete reports whether the log ends as the target ends it. One that does
// not is cut off: the log device was full, or the target still writes to it.
func (l *Log) Complete() bool {
	n := len(l.Entries)
	return n > 0 && l.Entries[n-1].Flags.Has(Mark) && l.Entries[n-1].Mark == endMark
}

// Data reads what entry i wrote. A discard, a bare flush and a mark have none.
func (l *Log) Data(i int) ([]byte, error) {
	e := &l.Entries[i]
	if e.Len == 0 || e.Flags.Has(Discard) {
		return nil, nil
	}
	p := make([]byte, e.Len)
	if _, err := l.r.ReadAt(p, e.at); err != nil {
		return nil, fmt.Errorf("%w: data of entry %d: %w", ErrDamaged, i, err)
	}
	return p, nil
}

// Find returns the index of the first mark with this text, from index from
// on, or -1.
func (l *Log) Find(mark string, from int) int {
	for i := from; i < len(l.Entries); i++ {
		if l.Entries[i].Flags.Has(Mark) && l.Entries[i].Mark == mark {
			return i
		}
	}
	return -1
}

// Splice returns where the run of plain writes and discards begins that ends
// right before entry i: if i is a flush, what a volatile cache may have held
// until i completed.
func (l *Log) Splice(i int) int {
	for i > 0 && l.Entries[i-1].plain() {
		i--
	}
	return i
}

// Before returns the plain writes and discards that had completed when the
// mark at index i was set, but are logged after it: those up to the plain
// write that stamp recognizes, which was made before the mark. It is empty if the
// stamp is logged before the mark, that is, was flushed already.
func (l *Log) Before(i int, stamp func(e *Entry, data []byte) bool) ([]int, error) {
	var held []int
	for j := i + 1; j < len(l.Entries); j++ {
		e := &l.Entries[j]
		if !e.plain() {
			continue
		}
		if !e.Flags.Has(Discard) {
			data, err := l.Data(j)
			if err != nil {
				return nil, err
			}
			if stamp(e, data) {
				return held, nil
			}
		}
		held = append(held, j)
	}
	return nil, nil
}
