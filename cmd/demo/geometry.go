package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// dump is the part of `metadata dump --json` that the demo reads.
type dump struct {
	Superblocks []struct {
		Superblock *superblock `json:"superblock"`
	} `json:"superblocks"`
}

// superblock says where things are on the disk. Offsets and lengths are in bytes.
type superblock struct {
	Head     int64 `json:"head_bytes"`     // the head that is displaced
	Exported int64 `json:"exported_bytes"` // the exported device's size
	Regions  []struct {
		Kind   string `json:"kind"`
		Device int    `json:"device"`
		Start  int64  `json:"start"`
		Length int64  `json:"length"`
	} `json:"regions"`
}

func (d *dump) superblock() (*superblock, error) {
	for _, c := range d.Superblocks {
		if c.Superblock != nil && c.Superblock.Exported > 0 {
			return c.Superblock, nil
		}
	}
	return nil, errors.New("metadata dump shows no superblock")
}

// census says what lies on the bad sectors of the disk.
type census struct {
	// exported are the bad sectors that hold users' data. It maps a byte offset on the exported
	// device to a sector of the disk.
	exported          map[int64]int64
	spare, management int
}

// sort finds out where each bad sector of the disk appears on the exported device.
func (sb *superblock) sort(bad []int64, blockSize int64) (*census, error) {
	c := &census{exported: map[int64]int64{}}
	for _, s := range bad {
		at := s * blockSize
		if at >= sb.Head && at < sb.Exported {
			c.exported[at] = s
			continue
		}
		kind := ""
		for _, r := range sb.Regions {
			if r.Device == 0 && at >= r.Start && at < r.Start+r.Length {
				kind = r.Kind
				if kind == "displaced-head" {
					c.exported[at-r.Start] = s
				}
			}
		}
		switch kind {
		case "displaced-head":
		case "spare":
			c.spare++
		case "mirror", "":
			c.management++
		default:
			return nil, fmt.Errorf("metadata dump shows a region of kind %q", kind)
		}
	}
	return c, nil
}

// unitSize is the size of a unit, in which spares are allocated, in bytes.
const unitSize = 4096

// spareFor returns the spare space, in bytes, that is enough for a disk with these bad sectors.
// Some of them are in the spare region itself.
func spareFor(bad []int64, blockSize int64) int64 {
	units, last := int64(0), int64(-1)
	for _, s := range bad { // they are sorted
		if u := s * blockSize / unitSize; u != last {
			units++
			last = u
		}
	}
	return (units + units/2) * unitSize
}

// sizeOf returns the size of a block device in bytes.
func sizeOf(device string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	return f.Seek(0, io.SeekEnd)
}
