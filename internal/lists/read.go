package lists

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrList is returned for a file that is not a list in the form that was asked for, or that names
// blocks past the end of the device.
var ErrList = errors.New("not a list of bad blocks")

// Formats that Read knows, as the command calls them.
const (
	Badblocks = "badblocks" // badblocks(8), e2fsck -l, mke2fs -l, dumpe2fs -b, MD, null_blk
	Ddrescue  = "ddrescue"  // the map, once log, of GNU ddrescue
	Smart     = "smart"     // smartctl --json: self-test logs and pending defects
	NVMe      = "nvme"      // nvme get-lba-status, its text or its JSON
	DMRemap   = "dm-remap"  // the spare device of dm-remap, version 4 of its metadata
)

// Limits of a list. A longer one is not of bad blocks, or the disk cannot be helped.
const (
	maxLines = 4 << 20
	// maxBytes is the most that is read of a JSON document.
	maxBytes = 256 << 20
	// Twice maxBlock times any block size, and that and twice maxOffset, is in the range of int64.
	maxBlock  = 1 << 44
	maxOffset = 1 << 61
)

// Options says how to read a list.
type Options struct {
	Format string
	// Block is the bytes of the blocks that the numbers of a list count: a power of two from 512 to
	// 65536. 0: what the format says, 1024 for badblocks, or what the document says, or 512.
	Block int
	// Offset is added to each byte: where on the device what the list is about begins. It may be
	// negative.
	Offset int64
	// Size is the bytes of the device. Nothing may lie past them.
	Size int64
	// Whole says that the device is the disk itself.
	Whole bool
	// Status is which areas of a ddrescue map count, of the characters ? * / - and +. Empty: those
	// that failed to read, which are * / and -.
	Status string
	// BlockFlag is what the command's flag for Block is called, for errors.
	BlockFlag string
}

// List is the contents of a list.
type List struct {
	Ranges []Range // sorted and merged
	End    int64   // the byte behind the last bad block
	Block  int     // bytes of the blocks that its numbers count
	// the list has lines of two numbers, as MD and null_blk write them, in sectors of 512 bytes
	Pairs bool
	// Disk is the bytes of the disk that the list says it is about; 0: it does not say.
	Disk int64
}

// reader collects what a list says.
type reader struct {
	Options
	name string
	line int // 0: the error is about the whole file
	list List
}

// Read reads a list. name is what it is called in errors. Errors: ErrList, and those of the
// reader; both name the file, and the line if one is at fault.
func Read(in io.Reader, name string, o Options) (*List, error) {
	r := &reader{Options: o, name: name}
	if o.Block != 0 && (o.Block < 512 || o.Block > 1<<16 || o.Block&(o.Block-1) != 0) {
		return nil, fmt.Errorf("%w: blocks of %d bytes; a power of two from 512 to 65536 is wanted",
			ErrList, o.Block)
	}
	if o.Offset > maxOffset || o.Offset < -maxOffset {
		return nil, fmt.Errorf("%w: an offset of %d bytes", ErrList, o.Offset)
	}
	var err error
	if o.Format != DMRemap {
		if in, err = plainText(in); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch o.Format {
	case Badblocks:
		err = r.badblocks(in)
	case Ddrescue:
		err = r.ddrescue(in)
	case Smart:
		err = r.smart(in)
	case NVMe:
		err = r.nvme(in)
	case DMRemap:
		err = r.dmRemap(in)
	default:
		return nil, fmt.Errorf("%w: no format %q; want %s", ErrList, o.Format,
			strings.Join([]string{Badblocks, Ddrescue, Smart, NVMe, DMRemap}, ", "))
	}
	if err != nil {
		if r.line > 0 {
			return nil, fmt.Errorf("%s:%d: %w", name, r.line, err)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.list.Ranges = Merge(r.list.Ranges)
	if n := len(r.list.Ranges); n > 0 {
		r.list.End = r.list.Ranges[n-1].End
	}
	r.list.Block = r.Block
	return &r.list, nil
}

// unlike are the first bytes of files that are no plain text, as somebody may hand in by mistake.
var unlike = []struct{ magic, what string }{
	{"\x1f\x8b", "compressed (gzip): unpack it first"},
	{"BZh", "compressed (bzip2): unpack it first"},
	{"\xfd7zXZ\x00", "compressed (xz): unpack it first"},
	{"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"},
	{"PK\x03\x04", "an archive (zip): unpack it first"},
	{"\xff\xfe", "UTF-16 text: save it as UTF-8, for instance by iconv -f UTF-16 -t UTF-8"},
	{"\xfe\xff", "UTF-16 text: save it as UTF-8, for instance by iconv -f UTF-16 -t UTF-8"},
}

// plainText returns in without a byte order mark. The error is ErrList if it begins as something
// that is no plain text, or that of reading it.
func plainText(in io.Reader) (io.Reader, error) {
	const mark = "\ufeff"
	b := bufio.NewReader(in)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, u := range unlike {
		if strings.HasPrefix(string(head), u.magic) {
			return nil, fmt.Errorf("%w: it is %s", ErrList, u.what)
		}
	}
	if strings.HasPrefix(string(head), mark) {
		_, err = b.Discard(len(mark))
		return b, err
	}
	return b, nil
}

// lines calls f with each line that is not empty, without what follows a #.
func (r *reader) lines(in io.Reader, f func(text string) error) error {
	sc := bufio.NewScanner(in)
	n := 0
	for sc.Scan() {
		r.line++
		text, _, _ := strings.Cut(sc.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if n++; n > maxLines {
			return fmt.Errorf("%w: more than %d lines", ErrList, maxLines)
		}
		if err := f(text); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			r.line++
			return fmt.Errorf("%w: a line has more than %d bytes", ErrList, bufio.MaxScanTokenSize)
		}
		r.line = 0
		return err
	}
	r.line = 0
	return nil
}

// blocks adds count blocks of the list's size. Both must be at most maxBlock.
func (r *reader) blocks(first, count int64) error {
	size := int64(r.Block)
	return r.bytes(first*size, (first+count)*size, func() string {
		return fmt.Sprintf("block %d, of %d bytes,", first+count-1, size)
	})
}

// bytes adds bytes [from, to) of what the list is about. The last block of a device may be cut
// short. what says in an error what lies there.
func (r *reader) bytes(from, to int64, what func() string) error {
	size := int64(max(1, r.Block))
	if to > 2*maxOffset { // as a damaged map may say
		return fmt.Errorf("%w: %s lies past the end of any device", ErrList, what())
	}
	from, to = from+r.Offset, to+r.Offset
	switch {
	case from < 0:
		return fmt.Errorf("%w: %s lies before the start of the device, at byte %d", ErrList, what(),
			from)
	case from >= r.Size, to-r.Size >= size:
		hint := ": is the list about another disk?"
		if r.BlockFlag != "" {
			hint = ": is the list about another disk? Else see " + r.BlockFlag
		}
		return fmt.Errorf("%w: %s lies past the end of the device, which has %d bytes%s", ErrList,
			what(), r.Size, hint)
	}
	r.list.Ranges = append(r.list.Ranges, Range{from, min(to, r.Size)})
	return nil
}

// number reads a number of the base, or a hexadecimal one with 0x. It is at most maxBlock.
func number(text string) (int64, bool) {
	n, ok := unsigned(text)
	return int64(n), ok && n <= maxBlock
}

func unsigned(text string) (uint64, bool) {
	base := 10
	if len(text) > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X') {
		text, base = text[2:], 16
	}
	n, err := strconv.ParseUint(text, base, 64)
	return n, err == nil
}
