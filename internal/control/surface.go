package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SurfaceHandler answers requests about how the surface of a disk looks.
type SurfaceHandler interface {
	// Surface divides the blocks from on and before to into as many cells, or a few less. Its
	// caller has checked that from is less than to, and that cells is 1 to MaxSurface. The error is
	// ErrInvalid if neither the device nor a region behind it on its disk has a block from.
	Surface(ctx context.Context, from, to uint64, cells int) (*Surface, error)
}

// SurfaceEnd, as the end of a range, is the end of the device.
const SurfaceEnd = ^uint64(0)

// MaxSurface is how many cells one Surface has at most.
const MaxSurface = 4096

// Surface is what a range of a device looks like, cell by cell. It is a summary: its size does not
// depend on how many blocks are remapped.
type Surface struct {
	BlockSize  int    `json:"block_size"`  // bytes
	SizeBlocks uint64 `json:"size_blocks"` // of the exported device
	// From and To are the range, cut at the end of the device, or at that of the last region of the
	// backing disk if the range was given. PerCell is how many blocks a cell
	// has; the last one may have fewer. It follows from the range that was asked for, which may go
	// beyond the end.
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	PerCell uint64 `json:"per_cell"`
	// Cells are those that have blocks that are not plain home, in ascending order.
	Cells []SurfaceCell `json:"cells"`
	// Regions is what else the disks of the set hold: the copies of the metadata, the spare units,
	// and the data that gave way to them.
	Regions []SurfaceRegion `json:"regions"`
	// Spares are the cells with spare units on the backing disk, in ascending order. They lie
	// behind the device, so they are part only of a range that is asked for beyond its end.
	Spares []SurfaceSpares `json:"spares,omitempty"`
	// Scrub says which blocks were read by a scrub, and when. nil: the server is too old to tell.
	Scrub *SurfaceScrub `json:"scrub,omitempty"`
}

// SurfaceScrub is how far the scrub is. If it is not idle, all blocks below Position were read
// since Started. All others were read by the pass that ended at LastFinished.
type SurfaceScrub struct {
	State        string     `json:"state"`    // idle, running or paused
	Position     uint64     `json:"position"` // block
	Started      *time.Time `json:"started"`  // null: there was no pass
	LastFinished *time.Time `json:"last_finished"`
}

// SurfaceCell counts the blocks of a cell that are not plain home, each once: a block in the spare
// region that does not read counts as pending.
type SurfaceCell struct {
	Cell    uint64 `json:"cell"` // it begins with block From + Cell × PerCell
	Mapped  uint64 `json:"mapped,omitempty"`
	Pending uint64 `json:"pending,omitempty"`
	Lost    uint64 `json:"lost,omitempty"`
	// Time (RFC 3339, UTC) and Cause are of the newest change of a unit of which the cell has such
	// blocks, as in Remap.
	Time  string `json:"time,omitempty"`
	Cause string `json:"cause,omitempty"`
}

// SurfaceSpares counts the spare units that have blocks in a cell. A unit with blocks in two cells
// is counted in both.
type SurfaceSpares struct {
	Cell  uint64 `json:"cell"`
	Units uint64 `json:"units"`
	Used  uint64 `json:"used,omitempty"` // hold data, or did a moment ago
	Bad   uint64 `json:"bad,omitempty"`  // are retired or in quarantine, used or not
}

// The kinds of a SurfaceRegion, beside the names of metadata.RegionKind: mirror, spare,
// displaced-head and displaced-tail.
const (
	RegionSuperblock = "superblock"
	RegionHead       = "head" // superblocks, mirror and flight recorder at the disk's start
)

// SurfaceRegion is a range of a disk of the set that is no plain data. Regions of kind head overlap
// with others.
type SurfaceRegion struct {
	Kind   string `json:"kind"`
	Device string `json:"device"` // path of the disk
	// Backing: it lies on the backing disk, where block b of the device is b blocks from the start.
	Backing bool   `json:"backing"`
	Start   int64  `json:"start"`  // byte of the disk
	Length  int64  `json:"length"` // bytes
	State   string `json:"state"`  // of a mirror: good, weak, stale or rebuilding
}

func (r *router) surface(w http.ResponseWriter, req *http.Request) {
	begun(req)
	q := req.URL.Query()
	from, err := queryNumber(q, "from", 0)
	to, toErr := queryNumber(q, "to", SurfaceEnd)
	cells, cellsErr := queryNumber(q, "cells", 1024)
	switch {
	case err != nil:
	case toErr != nil:
		err = toErr
	case cellsErr != nil:
		err = cellsErr
	case from >= to:
		err = fmt.Errorf("%w: from %d to %d is no range of blocks", ErrInvalid, from, to)
	case cells < 1 || cells > MaxSurface:
		err = fmt.Errorf("%w: %d cells: want 1 to %d", ErrInvalid, cells, MaxSurface)
	}
	if err != nil {
		reply(w, nil, err)
		return
	}
	// It walks over the table, as a list does.
	if !r.enterLists(w) {
		return
	}
	defer r.lists.leave()
	v, err := r.h.Surface(req.Context(), from, to, int(cells))
	reply(w, v, err)
}

// queryNumber reads a number of a query. If it is not there it is missing.
func queryNumber(q url.Values, name string, missing uint64) (uint64, error) {
	text := q.Get(name)
	if text == "" {
		return missing, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s=%.40q: want a number", ErrInvalid, name, text)
	}
	return n, nil
}

// Surface asks how the blocks from on and before to look, in so many cells, at most MaxSurface. A
// server that is too old for that returns an error that wraps ErrNotFound.
func (c *Client) Surface(ctx context.Context, from, to uint64, cells int) (*Surface, error) {
	var s Surface
	return &s, c.call(ctx, askTimeout, http.MethodGet,
		fmt.Sprintf("/v1/surface?from=%d&to=%d&cells=%d", from, to, cells), nil, &s)
}
