package survey

import (
	"context"

	"ublkremap/metadata"
)

// Zero writes zeroes to units, flushes them and reads them back. It returns the units that hold
// zeroes. The others are in Bad. Errors: those of Test.
func (d *Disk) Zero(ctx context.Context, units []int64) (good []int64, err error) {
	u := d.buf[:metadata.UnitSize]
	var took []int64
	for _, off := range units {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		clear(u)
		ok, err := d.try(func() error { _, err := d.dev.WriteAt(u, off); return err })
		if err != nil {
			return nil, err
		}
		if d.noteIf(!ok, off, len(u)); ok {
			took = append(took, off)
		}
	}
	if err := d.dev.Sync(); err != nil {
		return nil, err
	}
	for _, off := range took {
		ok, err := d.try(func() error {
			if _, err := d.dev.ReadAt(u, off); err != nil {
				return err
			}
			for _, b := range u {
				if b != 0 {
					return errOther
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if d.noteIf(!ok, off, len(u)); ok {
			good = append(good, off)
		}
	}
	return good, nil
}
