package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/lists"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// takenFrom reads what dm-remap has put on its spare device. The blocks are those of a set over the
// main device. Nothing is written.
func (a *app) takenFrom(ctx context.Context, devs []*blockdev.Device,
	path string) ([]metadata.Taken, error) {
	for _, d := range devs {
		if d.Path() == path || blockdev.SameDisk(d.Path(), path) {
			return nil, fmt.Errorf("%s: %w: it holds data that is to be taken over; take another "+
				"--spare-device", path, exit.ErrRefused)
		}
	}
	spare, err := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer spare.Close()
	from := unaligned{Device: spare, path: new(error)}
	table, err := lists.ReadDMRemap(from)
	if *from.path != nil {
		err = *from.path // what could not be read may be the newest
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if table.Spare > spare.Size() {
		return nil, fmt.Errorf("%s: %w: dm-remap's spare device has %d bytes, this one has %d; "+
			"name the one that it had", path, exit.ErrRefused, table.Spare, spare.Size())
	}
	if table.Main != 0 && table.Main != devs[0].Size() {
		return nil, fmt.Errorf("%s: %w: dm-remap's main device has %d bytes, %s has %d; name "+
			"the one that it had", path, exit.ErrRefused, table.Main, devs[0].Path(),
			devs[0].Size())
	}
	if table.Copies < lists.DMRemapCopies {
		a.log.Warn().Str("device", path).Msgf("%d of %d copies of dm-remap's metadata are whole; "+
			"if one that is not was newer, sectors that only it names show what they held before",
			table.Copies, lists.DMRemapCopies)
	}
	return takeSectors(devs[0], from, path, table)
}

// takeSectors reads the sectors that dm-remap has redirected, and makes blocks of the main device
// of them.
func takeSectors(main *blockdev.Device, spare unaligned, path string,
	table *lists.DMRemapTable) ([]metadata.Taken, error) {
	const sector = 512
	size := int64(main.Geometry().LogicalBlock)
	sectors := map[int64]map[int64][]byte{} // by block, by place in it; nil: no copy
	for _, e := range table.Entries {
		if e.Original >= main.Size() {
			return nil, fmt.Errorf("%s: %w: dm-remap has redirected byte %d, and %s has %d", path,
				exit.ErrRefused, e.Original, main.Path(), main.Size())
		}
		var data []byte
		if e.Trusted {
			data = make([]byte, sector)
			if ok, err := readPlace(spare, data, e.Spare); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			} else if !ok {
				data = nil
			}
		}
		block := e.Original / size
		if sectors[block] == nil {
			sectors[block] = map[int64][]byte{}
		}
		sectors[block][e.Original%size] = data
	}
	taken := make([]metadata.Taken, 0, len(sectors))
	for block, parts := range sectors {
		t := metadata.Taken{Block: uint64(block), Data: make([]byte, size)}
		if int64(len(parts))*sector < size { // the rest of it is at home
			if ok, err := readPlace(unaligned{Device: main}, t.Data, block*size); err != nil {
				return nil, err
			} else if !ok {
				t.Data = nil
			}
		}
		for at, data := range parts {
			if data == nil {
				t.Data = nil
			}
			if t.Data != nil {
				copy(t.Data[at:], data)
			}
		}
		taken = append(taken, t)
	}
	slices.SortFunc(taken, func(a, b metadata.Taken) int { return int(a.Block) - int(b.Block) })
	return taken, nil
}

// readPlace reads a place; false if it does not read. Errors are those that say nothing of the
// medium.
func readPlace(from unaligned, b []byte, at int64) (bool, error) {
	_, err := from.ReadAt(b, at)
	switch {
	case err == nil:
		return true, nil
	case ofMedium(err):
		return false, nil
	}
	return false, err
}

// ofMedium reports whether an error says that a place does not read, or is past the end.
func ofMedium(err error) bool {
	var errno syscall.Errno
	return errors.Is(err, io.EOF) ||
		errors.As(err, &errno) && remap.Classify(-int32(errno)) == remap.ClassMedium
}

// unaligned reads any bytes of a device that is read by whole blocks.
type unaligned struct {
	*blockdev.Device
	path *error // if it is not nil: the first error that says nothing of the medium
}

// ReadAt returns io.EOF for what reaches past the end.
func (u unaligned) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 || at > u.Size()-int64(len(b)) {
		return 0, io.EOF
	}
	const page = metadata.PageSize
	from := at / page * page
	to := min(u.Size(), (at+int64(len(b))+page-1)/page*page)
	block := int64(u.Geometry().LogicalBlock)
	if page%block == 0 && len(b)%int(block) == 0 && at%block == 0 {
		from, to = at, at+int64(len(b)) // no more than what is asked for, which may be bad beside
	}
	buf := metadata.AlignedBytes(int(to - from))
	if _, err := u.Device.ReadAt(buf, from); err != nil {
		if u.path != nil && *u.path == nil && !ofMedium(err) {
			*u.path = err
		}
		return 0, err
	}
	return copy(b, buf[at-from:]), nil
}

// takenRows is what is printed about what was taken over.
func (c *created) takenRows() [][]string {
	if c.Taken+c.Untaken == 0 {
		return nil
	}
	return [][]string{{"from dm-remap", readable.Number(c.Taken) + " blocks taken over, " +
		readable.Number(c.Untaken) + " have no copy there that can be trusted"}}
}
