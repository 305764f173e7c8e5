package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// dump is what the demo reads of `metadata dump --json`.
type dump struct {
	Superblocks []struct {
		Superblock *superblock `json:"superblock"`
	} `json:"superblocks"`
}

// superblock says where things lie on the disk. Offsets and lengths are bytes.
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

// census says what the bad sectors of the disk lie under.
type census struct {
	// exported are the bad sectors that hold users' data: from byte offset
	// on the exported device to sector of the disk.
	exported          map[int64]int64
	spare, management int
}

// sort tells where each bad sector of the disk shows on the exported device.
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

// unitSize is what spares are handed out in, in bytes.
const unitSize = 4096

// spareFor is the spare space, in bytes, that serves a disk with these bad
// sectors, some of which are in the spare region itself.
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
