package blockdev

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"unicode/utf8"
)

// ends is a device of any size that contains zeroes except at its two ends, and has one place that
// cannot be read.
type ends struct {
	size       int64
	head, tail []byte
	bad        int64 // -1: none
}

var errBad = errors.New("medium error")

func (e *ends) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > e.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.size-off))
	clear(p[:n])
	e.lay(p[:n], off, 0, e.head)
	e.lay(p[:n], off, e.size-int64(len(e.tail)), e.tail)
	if e.bad >= off && e.bad < off+int64(n) {
		return int(e.bad - off), errBad
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// lay copies the part of data that overlaps p. data begins at byte at, p begins at byte off.
func (e *ends) lay(p []byte, off, at int64, data []byte) {
	from, to := max(off, at), min(off+int64(len(p)), at+int64(len(data)))
	if from < to {
		copy(p[from-off:to-off], data[from-at:])
	}
}

// FuzzDetect looks for signatures on devices of any contents, size and health.
func FuzzDetect(f *testing.F) {
	f.Add(int64(64<<20), []byte{}, []byte{}, int64(-1))
	f.Add(int64(0), []byte{}, []byte{}, int64(-1))
	f.Add(int64(511), []byte("XFSB"), []byte{}, int64(0))
	f.Add(int64(1<<62), append(make([]byte, 1080), 0x53, 0xef), []byte("EFI PART"), int64(1<<20))
	f.Add(int64(8<<20), append(make([]byte, 510), 0x55, 0xaa),
		bytes.Repeat([]byte{0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0}, 2048), int64(4096))
	for _, m := range table {
		for _, at := range m.at {
			if at < 8<<10 {
				f.Add(int64(4<<20), append(make([]byte, at), m.magic...), m.magic, int64(-1))
				break
			}
		}
	}
	f.Fuzz(func(t *testing.T, size int64, head, tail []byte, bad int64) {
		if size < 0 {
			return
		}
		found := Detect(&ends{size, head, tail, bad}, size)
		for _, s := range found.Signatures {
			if s.Name == "" || s.Kind == "" || s.Length <= 0 || s.Offset < 0 ||
				s.Offset+int64(s.Length) > size {
				t.Fatalf("%+v on a device of %d bytes", s, size)
			}
			if found.Blank && (s.Offset+int64(s.Length) <= scanEnds || s.Offset >= size-scanEnds) {
				t.Fatalf("blank, with %v", s)
			}
			if s.String() == "" || !utf8.ValidString(s.String()) {
				t.Fatalf("%q", s.String())
			}
		}
		if bad < 0 && len(found.Unread) > 0 {
			t.Fatalf("unread: %v", found.Unread)
		}
	})
}

// FuzzProc reads texts that the kernel prints, and others.
func FuzzProc(f *testing.F) {
	f.Add("Filename Type\n/dev/sda2 partition 1 2 3\n/a\\040b file\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range parseSwaps(text) {
			if name == "" {
				t.Fatal("no name")
			}
		}
	})
}
