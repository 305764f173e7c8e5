package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// findings are what is wrong with a file system after a cut; checked counts
// what was looked at.
type findings struct {
	errs    []error
	files   int   // with something acknowledged before the cut
	bytes   int64 // of it that were compared
	pending int   // operations that were not acknowledged and show anyway
}

func (f *findings) add(format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf(format, args...))
}

// verify compares a mounted file system with what was acknowledged up to the mark acked.
func verify(root string, objects []*object, acked int64) *findings {
	f := &findings{}
	for _, o := range objects {
		switch o.kind {
		case slotted:
			f.slotted(root, o, acked)
		case appended:
			f.appended(root, o, acked)
		default:
			f.whole(root, o, acked)
		}
	}
	return f
}

// durable is the version that must be there at least; 0: none. The one after it
// may be there too: it was on its way. A later one cannot be, since a writer does one
// thing at a time and sets the mark in between.
func durable(ops []op, acked int64) int {
	v := 0
	for _, p := range ops {
		if p.ack != 0 && p.ack <= acked {
			v = p.version
		}
	}
	return v
}

// whole looks at a file that is only ever there as a whole: some version, no
// older than the durable one, under its name.
func (f *findings) whole(root string, o *object, acked int64) {
	least := durable(o.ops, acked)
	if least > 0 {
		f.files++
	}
	seen := false
	for _, name := range []string{o.name(1), o.name(2)} {
		if seen && name == o.name(1) {
			break // there is one name only
		}
		b, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			f.add("%s: %w", name, err)
			return
		}
		if seen {
			f.add("%s: it is there under both its names", name)
		}
		seen = true
		w, id, v, n, err := parse(b)
		switch {
		case err != nil || w != o.writer || id != o.id || int64(len(b)) != n ||
			!bytes.Equal(b, body(o, v, n)):
			f.add("%s: %d bytes that are no version of it (writer %d, object %d, version %d, %d "+
				"bytes; %v); version %d is acknowledged", name, len(b), w, id, v, n, err, least)
		case o.kind == replaced && (v < least || v > least+1 || v > len(o.ops)):
			f.add("%s: version %d, although version %d is acknowledged, and one more was on its "+
				"way at most", name, v, least)
		case o.kind == renamed && name != o.name(least) && least > 0 && len(o.ops) == least:
			f.add("%s: it was renamed to %s, acknowledged, and not again", name, o.name(least))
		}
		f.bytes += int64(len(b))
		if o.kind == replaced && v > least || o.kind == renamed && name != o.name(max(least, 1)) {
			f.pending++
		}
	}
	if !seen && least > 0 {
		f.add("%s: it is gone, although version %d is acknowledged", o.name(least), least)
	}
}

// appended looks at a file that begins with the durable records.
func (f *findings) appended(root string, o *object, acked int64) {
	least := durable(o.ops, acked)
	if least == 0 {
		return
	}
	f.files++
	name := o.name(1)
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		f.add("%s: %d records of it are acknowledged: %w", name, least, err)
		return
	}
	most := int64(0)
	for _, p := range o.ops[:min(least+1, len(o.ops))] {
		most += p.length
	}
	if int64(len(b)) > most {
		f.add("%s: %d bytes, more than the %d that were written by then", name, len(b), most)
	}
	rest := b
	for _, p := range o.ops[:least] {
		want := body(o, p.version, p.length)
		if !bytes.HasPrefix(rest, want) {
			f.add("%s: record %d of %d that are acknowledged, %d bytes at %d of %d, is not whole",
				name, p.version, least, len(want), len(b)-len(rest), len(b))
			return
		}
		rest = rest[len(want):]
		f.bytes += int64(len(want))
	}
	if len(rest) > 0 {
		f.pending++
	}
}

// slotted looks at a file that is overwritten in place: every sector of a slot is
// of a version no older than the durable one.
func (f *findings) slotted(root string, o *object, acked int64) {
	if durable(o.ops, acked) == 0 {
		return
	}
	f.files++
	name := o.name(1)
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil || len(b) != slots*slotSize {
		f.add("%s: %d bytes of %d: %v", name, len(b), slots*slotSize, err)
		return
	}
	want := make([]byte, slotSize)
	for n := range slots {
		least := durable(o.slot[n], acked)
		got := b[n*slotSize : (n+1)*slotSize]
		for i := 0; i < slotSize; i += sector {
			s := got[i : i+sector]
			v := int(binary.LittleEndian.Uint64(s))
			if v == 0 {
				clear(want)
			} else {
				fillSlot(want, o, n, v)
			}
			if v < least || v > least+1 || v > len(o.slot[n]) || !bytes.Equal(s, want[i:i+sector]) {
				f.add("%s: sector %d of slot %d is of version %d (whole: %v); version %d is "+
					"acknowledged", name, i/sector, n, v, bytes.Equal(s, want[i:i+sector]), least)
				return
			}
			if v > least {
				f.pending++
			}
		}
		f.bytes += slotSize
	}
}
