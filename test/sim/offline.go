package sim

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"ublkremap/metadata"
)

// offline lets package metadata read and write a disk directly, as create, load and check do. It
// carries out one operation after the other, with the disk's faults.
type offline struct {
	d    *disk
	left *int // writes and syncs until the power is cut; nil: never
	// before, if not nil, is called before each write and sync.
	before func()
}

var errCut = errors.New("the power was cut")

var _ metadata.Device = offline{}

func (o offline) Size() int64 { return o.d.size }

func (o offline) cut() bool {
	if o.before != nil {
		o.before()
	}
	if o.left == nil {
		return false
	}
	*o.left--
	return *o.left < 0
}

func (o offline) ReadAt(b []byte, off int64) (int, error) {
	if err := o.check(b, off, false); err != nil {
		return 0, err
	}
	o.d.load(off, b)
	return len(b), nil
}

func (o offline) WriteAt(b []byte, off int64) (int, error) {
	if o.cut() {
		return 0, errCut
	}
	if err := o.check(b, off, true); err != nil {
		return 0, err
	}
	o.d.store(off, b, int64(len(b)), false)
	return len(b), nil
}

func (o offline) check(b []byte, off int64, write bool) error {
	if off%pageSize != 0 || len(b)%pageSize != 0 || off < 0 {
		return fmt.Errorf("not aligned: %d bytes at %d", len(b), off)
	}
	if off+int64(len(b)) > o.d.size {
		return io.ErrUnexpectedEOF
	}
	if o.d.missing != 0 {
		return syscall.Errno(o.d.missing)
	}
	for at := off; at < off+int64(len(b)); at += sectorSize {
		if f := o.d.badAt(at, write); f != nil {
			if f.left > 0 {
				f.left--
			}
			return syscall.Errno(f.errno)
		}
	}
	return nil
}

func (o offline) Sync() error {
	if o.cut() {
		return errCut
	}
	o.d.sync(o.d.seq)
	return nil
}
