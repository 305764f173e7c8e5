package lists

import (
	"bufio"
	"fmt"
	"io"
	"iter"
)

// WriteBadblocks writes the numbers of the blocks that ranges touch, as badblocks(8) does. block
// is the bytes of a block. The ranges are in order, and do not overlap.
func WriteBadblocks(w io.Writer, ranges iter.Seq[Range], block int64) error {
	out := bufio.NewWriterSize(w, 64<<10)
	next := int64(0) // no block below it is to be written
	for r := range ranges {
		for b := max(next, r.Start/block); b*block < r.End; b++ {
			if _, err := fmt.Fprintln(out, b); err != nil {
				return err
			}
			next = b + 1
		}
	}
	return out.Flush()
}

// WriteDdrescue writes a map of GNU ddrescue for size bytes: ranges are bad sectors, and all else
// is finished. title is the first line, a comment. The ranges are in order, and do not overlap.
func WriteDdrescue(w io.Writer, ranges iter.Seq[Range], size int64, title string) error {
	out := bufio.NewWriterSize(w, 64<<10)
	_, err := fmt.Fprintf(out, "# %s\n# current_pos  current_status  current_pass\n"+
		"0x00000000     +               1\n#      pos        size  status\n", title)
	area := func(from, to int64, status byte) {
		if from < to && err == nil {
			_, err = fmt.Fprintf(out, "0x%08X  0x%08X  %c\n", from, to-from, status)
		}
	}
	at := int64(0)
	for r := range ranges {
		area(at, r.Start, '+')
		area(r.Start, r.End, '-')
		at = r.End
	}
	area(at, size, '+')
	if err != nil {
		return err
	}
	return out.Flush()
}

// Segment is where a run of bytes of a device lies.
type Segment struct {
	Start, Length int64  // bytes, whole sectors of 512
	Device        string // path; empty: nowhere, reading it is an error
	Offset        int64  // bytes
}

// WriteDMTable writes a table for dmsetup create. The segments are in order, without gaps.
// Neighbours that belong together become one line.
func WriteDMTable(w io.Writer, segments iter.Seq[Segment]) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var last Segment
	var err error
	flush := func() {
		switch {
		case err != nil || last.Length == 0:
		case last.Device == "":
			_, err = fmt.Fprintf(out, "%d %d error\n", last.Start/512, last.Length/512)
		default:
			_, err = fmt.Fprintf(out, "%d %d linear %s %d\n", last.Start/512, last.Length/512,
				last.Device, last.Offset/512)
		}
	}
	for s := range segments {
		if s.Device == last.Device && last.Length > 0 &&
			(s.Device == "" || s.Offset == last.Offset+last.Length) {
			last.Length += s.Length
			continue
		}
		flush()
		last = s
	}
	flush()
	if err != nil {
		return err
	}
	return out.Flush()
}
