package page

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
	"ublkremap/internal/page"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// hostile is the name of a disk from elsewhere.
const hostile = "<script>alert(1)</script>\"'&\u202egnp.exe\x1b[2J\n"

const perUnit = 8 // blocks of 512 bytes

// disk is a device that is made up.
type disk struct {
	st      control.Status
	final   bool
	table   *remap.Map // nil: it has no surface
	regions []control.SurfaceRegion
	slow    []control.Range
	started *time.Time // the pass of the scrub
	events  []page.Event
	err     error
}

// host is a page.Source.
type host struct {
	mu    sync.Mutex
	disks []*disk
	asked int // questions about surfaces
	// held: while it is open, questions about surfaces have no answer. nil: they have.
	held chan struct{}
}

// questions is how often it was asked about surfaces.
func (h *host) questions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

var errAway = errors.New("its server does not answer")

// find returns a disk as it is now.
func (h *host) find(name string) (*disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.disks {
		if d.st.Name == name {
			now := *d
			return &now, d.err
		}
	}
	return nil, errors.New("there is no such device")
}

// change changes a disk while the page may ask for it.
func (h *host) change(name string, f func(d *disk)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.disks {
		if d.st.Name == name {
			f(d)
		}
	}
}

func (h *host) List(context.Context) ([]page.Listed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []page.Listed{}
	for _, d := range h.disks {
		st := d.st
		list = append(list, page.Listed{Status: &st, Asked: d.final})
	}
	return list, nil
}

func (h *host) Status(_ context.Context, name string) (*control.Status, error) {
	d, err := h.find(name)
	if err != nil {
		return nil, err
	}
	return &d.st, nil
}

func (h *host) Latencies(_ context.Context, name string) (*control.Latencies, error) {
	if _, err := h.find(name); err != nil {
		return nil, err
	}
	l := &control.Latencies{Started: time.Now().Add(-50 * time.Hour), TimedOneIn: 1}
	for i, op := range []string{"read", "write"} {
		for j, path := range []string{"home", "spare", "heal"} {
			h := control.Histogram{}
			for k := range 12 {
				b := control.Bucket{Index: 20 + 12*j + 3*i + k,
					Count: uint64(1+k*(11-k)) * 10000 / uint64(1+100*j)}
				h.Buckets = append(h.Buckets, b)
				h.SumNS += b.Count * uint64(1e9*latency.Bound(b.Index))
			}
			l.Requests = append(l.Requests, control.RequestLatency{Operation: op, Path: path,
				Histogram: h})
		}
	}
	return l, nil
}

func (h *host) Scrub(_ context.Context, name string) (*control.ScrubStatus, error) {
	d, err := h.find(name)
	if err != nil {
		return nil, err
	}
	return &control.ScrubStatus{Scrub: d.st.Scrub, SlowBlocks: d.slow}, nil
}

func (h *host) Surface(ctx context.Context, name string, from, to uint64,
	cells int) (*control.Surface, error) {
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d, err := h.find(name)
	if err != nil {
		return nil, err
	}
	if d.table == nil {
		return nil, errAway
	}
	h.mu.Lock()
	h.asked++
	h.mu.Unlock()
	s := &control.Surface{BlockSize: d.st.BlockSize, SizeBlocks: d.st.SizeBlocks, From: from,
		Cells: []control.SurfaceCell{}, Regions: d.regions,
		Scrub: &control.SurfaceScrub{State: d.st.Scrub.State, Position: d.st.Scrub.Position,
			Started: d.started, LastFinished: d.st.Scrub.LastFinished}}
	end := s.SizeBlocks
	if to == control.SurfaceEnd {
		to = end
	} else if n := len(d.regions); n > 0 {
		end = uint64(d.regions[n-1].Start+d.regions[n-1].Length) / 512
	}
	if from >= end {
		return nil, fmt.Errorf("%w: block %d", control.ErrInvalid, from)
	}
	s.PerCell = (to-from-1)/uint64(cells) + 1
	s.To = min(to, end)
	d.spares(s)
	return s, d.table.Surface(from, s.To, s.PerCell, func(c remap.SurfaceCell) error {
		s.Cells = append(s.Cells, control.SurfaceCell{Cell: c.Cell, Mapped: c.Mapped,
			Pending: c.Pending, Lost: c.Lost, Cause: c.Cause.String(),
			Time: time.Unix(int64(c.Time), 0).UTC().Format(time.RFC3339)})
		return nil
	})
}

// spares fills in the cells of the spare region, of which the first units are in use, and the last
// one is bad.
func (d *disk) spares(s *control.Surface) {
	start := s.SizeBlocks + 64<<20/512
	total := d.st.Spare.Total
	for at := max(start, s.From); at < min(start+total*perUnit, s.To); {
		cell := (at - s.From) / s.PerCell
		next := min(s.From+(cell+1)*s.PerCell, start+total*perUnit, s.To)
		lo, hi := (at-start)/perUnit, (next-start-1)/perUnit+1
		c := control.SurfaceSpares{Cell: cell, Units: hi - lo, Used: min(hi, d.st.Spare.Used) -
			min(lo, d.st.Spare.Used)}
		if hi == total {
			c.Bad = 1
		}
		s.Spares = append(s.Spares, c)
		at = next
	}
}

func (h *host) Events(_ context.Context, name string, from uint64) ([]page.Event, error) {
	d, err := h.find(name)
	if err != nil || from > uint64(len(d.events)) {
		return nil, err
	}
	return d.events[max(from, 1)-1:], nil
}

// newDisk makes a disk of so many blocks of 512 bytes, in order, with its regions.
func newDisk(id int, name string, blocks uint64) *disk {
	scrubbed := time.Now().Add(-75 * time.Hour)
	created := time.Now().Add(-200 * 24 * time.Hour)
	units := blocks / perUnit
	spare := units / 100
	end := int64(blocks) * 512
	path := fmt.Sprintf("/dev/sd%c", 'b'+id%24)
	const head = 64 << 20
	at := func(kind string, start, length int64, state string) control.SurfaceRegion {
		return control.SurfaceRegion{Kind: kind, Device: path, Backing: true, Start: start,
			Length: length, State: state}
	}
	return &disk{
		st: control.Status{Device: fmt.Sprintf("/dev/ublkb%d", id), ID: id, Name: name,
			UUID:  fmt.Sprintf("00000000-0000-4000-8000-%012d", id),
			State: control.StateLive, Backing: path, BlockSize: 512, SizeBlocks: blocks,
			Created: &created, ServerPID: 1000 + id,
			Spare: control.Spare{Total: spare, Free: spare,
				Devices: []control.SpareDevice{{Device: path, Total: spare}}},
			Requests: control.Requests{Most: 512},
			Metadata: control.Metadata{Version: 4, Sequence: 1, LogUsed: 1 << 20, LogSize: 32 << 20,
				Mirrors: []control.Mirror{{Location: path + " at 1 MiB", State: "good"},
					{Location: path + " at the end", State: "good"}}},
			Scrub:   control.Scrub{State: "idle", Total: blocks, LastFinished: &scrubbed},
			Breaker: control.Breaker{State: "closed"}},
		table: remap.NewMap(units, perUnit),
		regions: []control.SurfaceRegion{at("head", 0, head, ""), at("superblock", 0, 4096, ""),
			at("mirror", 1<<20, 32<<20, "good"), at("displaced-head", end, head, ""),
			at("spare", end+head, int64(spare)*4096, ""),
			at("mirror", end+head+int64(spare)*4096, 32<<20, "good")},
	}
}

// is puts units into a state.
func (d *disk) is(state metadata.State, unit uint64, n uint32, mask uint8) {
	when := uint32(time.Date(2026, 3, 1, 11, 55, 0, 0, time.UTC).Unix())
	e := metadata.Entry{Unit: unit, Count: n, Mask: mask, State: state, Time: when,
		Cause: metadata.CauseRead}
	blocks := uint64(n) * uint64(bits.OnesCount8(mask))
	switch state {
	case metadata.StateMapped:
		e.Spare, e.Cause = uint32(d.st.Spare.Used), metadata.CauseWrite
		d.st.Spare.Used += uint64(n)
		d.st.Spare.Free -= uint64(n)
		d.st.Remaps += uint64(n)
	case metadata.StatePending:
		d.st.Pending += blocks
	case metadata.StateLost:
		d.st.Lost += blocks
	}
	d.st.Metadata.Sequence++
	d.table.Apply(e)
}

const gib = 1 << 30 / 512

// failing is a disk with bad blocks of all kinds.
func failing(id int, name string) *disk {
	d := newDisk(id, name, 64*gib)
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec
	units := d.st.SizeBlocks / perUnit
	for range 400 {
		d.is(metadata.StateMapped, units/5+rng.Uint64N(units/20), 1, 0xff)
	}
	for range 30 {
		d.is(metadata.StateMapped, rng.Uint64N(units), 1, 0xff)
	}
	d.is(metadata.StateMapped, units/2, 3000, 0xff)
	d.is(metadata.StatePending, units/2+3000, 2, 0xff)
	d.is(metadata.StatePending, units/2+5000, 1, 0xff)
	d.is(metadata.StateLost, units*7/10, 1, 0xff)
	d.slow = []control.Range{{Block: d.st.SizeBlocks * 4 / 5, Count: 64}}
	started := time.Now().Add(-5 * time.Hour)
	d.started = &started
	d.st.Scrub = control.Scrub{State: "running", Position: d.st.SizeBlocks * 2 / 5,
		Total: d.st.SizeBlocks, Rate: 40 << 20, LastFinished: d.st.Scrub.LastFinished}
	d.st.State, d.st.Reason = control.StateDegraded, "a mirror of the metadata is stale"
	d.st.Action = "ublk-remap health " + name
	d.st.Metadata.Mirrors[1].State = "stale"
	d.st.Heals = control.Heals{Writes: 3430, Reads: 12, Failed: 2}
	d.st.Errors = control.Errors{Read: 24, Write: 3440}
	for i := range 12 {
		d.events = append(d.events, page.Event{Number: uint64(i + 1),
			Time: time.Now().Add(time.Duration(i-14) * time.Hour), What: "remap", HasBlock: true,
			Block: 1200000 + uint64(i)*64, Count: 8, Errno: "EIO", Text: "a write failed; mapped",
			Cause: "write", Latency: 900 * time.Millisecond})
	}
	return d
}

// states are devices in all states.
func states() *host {
	h := &host{disks: []*disk{newDisk(0, "archive", 8*gib), failing(1, "media")}}
	add := func(name string, state control.State, reason, action string) *disk {
		d := newDisk(len(h.disks), name, 16*gib)
		d.st.State, d.st.Reason, d.st.Action = state, reason, action
		h.disks = append(h.disks, d)
		return d
	}
	d := add("tripped", control.StateTripped, "remaps came faster than the budget allows",
		"look at the cable, then: ublk-remap resume tripped")
	d.st.Breaker = control.Breaker{State: "open", Reason: d.st.Reason}
	d = add("failed", control.StateFailed, "its server is dead; I/O waits for the next one",
		"to go on: ublk-remap start failed")
	d.st.ServerPID, d.final, d.table = 0, true, nil
	d = add("stuck", control.StateUnreachable, "its server does not answer",
		"wait, or end it: ublk-remap stop --force stuck")
	d.table, d.err = nil, errAway
	add("recovering", control.StateRecovering, "its server was started again a moment ago", "")
	add("stopping", control.StateStopping, "it was asked to stop and is ending", "")
	d = add("full", control.StateDegraded, "no spare unit is free",
		"copy the data to another disk while this one reads")
	d.is(metadata.StateMapped, 5000, uint32(d.st.Spare.Total), 0xff)
	d = add("never-scrubbed", control.StateLive, "", "")
	d.st.Scrub.LastFinished = nil
	d = add(hostile, control.StateLive, "", "")
	d.st.Reason, d.st.Backing = hostile, "/dev/"+hostile
	return h
}

// manyRemaps is a disk of 16 TiB with a million remaps.
func manyRemaps() *disk {
	const units, remaps = 16 << 40 / 4096, 1 << 20
	d := newDisk(0, "huge", units*perUnit)
	b := remap.NewBuilder(units, perUnit)
	rng := rand.New(rand.NewPCG(3, 4)) //nolint:gosec
	const step = units / remaps
	for i := range uint64(remaps) {
		b.Apply(metadata.Entry{Unit: i*step + rng.Uint64N(step), Count: 1, Mask: 0xff,
			State: metadata.StateMapped, Spare: uint32(i), Time: uint32(1.7e9 + i),
			Cause: metadata.CauseWrite})
	}
	d.table = b.Map()
	d.st.Remaps, d.st.Spare.Used = remaps, remaps
	d.st.Spare.Free = d.st.Spare.Total - remaps
	return d
}
