package metadata

import (
	"errors"
	"fmt"
	"slices"
)

// errRehearsal is returned if what was restored is not what was backed up.
var errRehearsal = errors.New("the restored table is not that of the backup")

// RehearseRestore restores a backup to disks in memory that hold nothing, loads the result, and
// compares the tables. It needs memory for the table twice over, and a few MiB. It returns what the
// table holds.
func RehearseRestore(b *Backup, o RunOptions) (TableCounts, error) {
	var devs []Device
	for _, d := range b.Superblock.Devices {
		devs = append(devs, &sparseDevice{size: d.Size, pages: map[int64][]byte{}})
	}
	plan, err := PlanRestore(devs, b)
	if err != nil {
		return TableCounts{}, err
	}
	if _, err := plan.Run(o); err != nil {
		return TableCounts{}, err
	}
	img, err := Load(devs)
	if err != nil {
		return TableCounts{}, err
	}
	table, err := img.Table()
	if err != nil {
		return TableCounts{}, err
	}
	same, err := sameEntries(b.table, table)
	if err == nil && !same {
		err = errRehearsal
	}
	return table.Counts(), err
}

// sameEntries reports whether two tables state the same.
func sameEntries(a, b *Table) (bool, error) {
	list := func(t *Table) (out []Entry, _ error) {
		return out, t.each(func(e Entry) error {
			out = append(out, e)
			return nil
		})
	}
	x, err := list(a)
	if err != nil {
		return false, err
	}
	y, err := list(b)
	return slices.Equal(x, y), err
}

// sparseDevice is a disk in memory that keeps only pages that are not zero.
type sparseDevice struct {
	size  int64
	pages map[int64][]byte
}

// Size is the size of the disk.
func (d *sparseDevice) Size() int64 { return d.size }

// Sync does nothing: nothing outlives the disk.
func (d *sparseDevice) Sync() error { return nil }

// ReadAt reads whole pages.
func (d *sparseDevice) ReadAt(b []byte, off int64) (int, error) {
	for i := 0; i < len(b); i += PageSize {
		if p := d.pages[off+int64(i)]; p != nil {
			copy(b[i:i+PageSize], p)
		} else {
			clear(b[i : i+PageSize])
		}
	}
	return len(b), d.within(off, len(b))
}

// WriteAt writes whole pages.
func (d *sparseDevice) WriteAt(b []byte, off int64) (int, error) {
	if err := d.within(off, len(b)); err != nil {
		return 0, err
	}
	for i := 0; i < len(b); i += PageSize {
		p := b[i : i+PageSize]
		if slices.IndexFunc(p, func(c byte) bool { return c != 0 }) < 0 {
			delete(d.pages, off+int64(i))
		} else {
			d.pages[off+int64(i)] = slices.Clone(p)
		}
	}
	return len(b), nil
}

// within refuses what lies beyond the end.
func (d *sparseDevice) within(off int64, n int) error {
	if off < 0 || off%PageSize != 0 || n%PageSize != 0 || off+int64(n) > d.size {
		return fmt.Errorf("%d bytes at %d of %d", n, off, d.size)
	}
	return nil
}
