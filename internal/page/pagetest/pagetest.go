// Package pagetest is a host that a page can be tried with: devices in many states, none of which
// needs a driver or a disk.
package pagetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
	"ublkremap/internal/page"
	"ublkremap/internal/shell"
)

// Host is a page.Source. Its devices can be changed at any time.
type Host struct {
	// Now is the clock, by which old things happened. It is not changed while the host is asked.
	Now func() time.Time

	mu      sync.Mutex
	devices []*Device
	listErr error

	// How often it was asked for what.
	Lists, Statuses, Surfaces atomic.Int64
}

// Device is a device of a Host.
type Device struct {
	Status control.Status
	Asked  bool // there is no server to ask
	// Hangs, if it is not nil, is closed when the server answers again.
	Hangs     chan struct{}
	Latencies *control.Latencies
	Slow      []control.Range
	Events    []page.Event
	Regions   []control.SurfaceRegion
	// Blocks that are not at home, by their first, in ascending order.
	Runs []Run
	// Each status adds so much to the counters.
	ReadRate, WriteRate, HealRate uint64
}

// Run is a run of blocks that are not at home.
type Run struct {
	Block, Count uint64
	State        string // mapped, pending or lost
}

// Hostile is a name that a disk from elsewhere could bring.
const Hostile = "<script>alert(1)</script>\"'&\u202egnp.\x1b[2Jexe\n\xff"

// Add adds devices.
func (h *Host) Add(devices ...*Device) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.devices = append(h.devices, devices...)
}

// Remove removes a device by its name.
func (h *Host) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.devices = slices.DeleteFunc(h.devices, func(d *Device) bool { return d.Status.Name == name })
}

// Change calls f with a device.
func (h *Host) Change(name string, f func(*Device)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.devices {
		if d.Status.Name == name {
			f(d)
		}
	}
}

// FailLists makes lists end with an error, or not if it is nil.
func (h *Host) FailLists(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listErr = err
}

// find returns a device, once its server answers.
func (h *Host) find(ctx context.Context, name string) (*Device, error) {
	h.mu.Lock()
	i := slices.IndexFunc(h.devices, func(d *Device) bool {
		return cmp.Or(d.Status.Name, d.Status.Device) == name
	})
	if i < 0 {
		h.mu.Unlock()
		return nil, fmt.Errorf("%s: no device of this name runs here", shell.Quote(name))
	}
	d, hangs := h.devices[i], h.devices[i].Hangs
	h.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", control.ErrSilent, ctx.Err())
		}
	}
	return d, nil
}

// List implements page.Source.
func (h *Host) List(context.Context) ([]page.Listed, error) {
	h.Lists.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []page.Listed
	for _, d := range h.devices {
		st := d.Status
		if !d.Asked {
			st = control.Status{Device: st.Device, ID: st.ID, Name: st.Name, UUID: st.UUID,
				Backing: st.Backing, State: control.StateRecovering,
				Reason: "its server is being asked"}
		}
		all = append(all, page.Listed{Status: &st, Asked: d.Asked})
	}
	return all, h.listErr
}

// Status implements page.Source.
func (h *Host) Status(ctx context.Context, name string) (*control.Status, error) {
	h.Statuses.Add(1)
	d, err := h.find(ctx, name)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	st := &d.Status
	st.IO.ReadBytes, st.IO.Reads = st.IO.ReadBytes+d.ReadRate, st.IO.Reads+d.ReadRate>>16
	st.IO.WriteBytes, st.IO.Writes = st.IO.WriteBytes+d.WriteRate, st.IO.Writes+d.WriteRate>>16
	st.Heals.Writes += d.HealRate
	st.Errors.Write += d.HealRate
	now := *st
	return &now, nil
}

// Latencies implements page.Source.
func (h *Host) Latencies(ctx context.Context, name string) (*control.Latencies, error) {
	d, err := h.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if d.Latencies == nil {
		return nil, control.ErrNotFound
	}
	return d.Latencies, nil
}

// Scrub implements page.Source.
func (h *Host) Scrub(ctx context.Context, name string) (*control.ScrubStatus, error) {
	d, err := h.find(ctx, name)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return &control.ScrubStatus{Scrub: d.Status.Scrub, SlowBlocks: slices.Clone(d.Slow)}, nil
}

// Events implements page.Source.
func (h *Host) Events(ctx context.Context, name string, from uint64) ([]page.Event, error) {
	d, err := h.find(ctx, name)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(d.Events, func(e page.Event) bool { return e.Number >= from })
	if i < 0 {
		return nil, nil
	}
	return slices.Clone(d.Events[i:]), nil
}

// Surface implements page.Source.
func (h *Host) Surface(ctx context.Context, name string, from, to uint64,
	cells int) (*control.Surface, error) {
	h.Surfaces.Add(1)
	d, err := h.find(ctx, name)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	blocks := d.Status.SizeBlocks
	if from >= blocks {
		return nil, fmt.Errorf("%w: the device has no block %d", control.ErrInvalid, from)
	}
	s := &control.Surface{BlockSize: d.Status.BlockSize, SizeBlocks: blocks, From: from,
		To: min(to, blocks), PerCell: (to-from-1)/uint64(cells) + 1, Cells: []control.SurfaceCell{},
		Regions: slices.Clone(d.Regions)}
	i, _ := slices.BinarySearchFunc(d.Runs, from, func(r Run, b uint64) int {
		return cmp.Compare(r.Block+r.Count-1, b)
	})
	for _, r := range d.Runs[i:] {
		for b := max(r.Block, from); b < min(r.Block+r.Count, s.To); {
			cell := (b - from) / s.PerCell
			end := min(r.Block+r.Count, s.To, from+(cell+1)*s.PerCell)
			if n := len(s.Cells); n == 0 || s.Cells[n-1].Cell != cell {
				s.Cells = append(s.Cells, control.SurfaceCell{Cell: cell})
			}
			c := &s.Cells[len(s.Cells)-1]
			switch r.State {
			case "pending":
				c.Pending += end - b
			case "lost":
				c.Lost += end - b
			default:
				c.Mapped += end - b
			}
			b = end
		}
		if r.Block >= s.To {
			break
		}
	}
	return s, nil
}

// New returns a host with a device in each of many states. now is its clock; nil: that of the
// machine.
func New(now func() time.Time) *Host {
	if now == nil {
		now = time.Now
	}
	h := &Host{Now: now}
	for i, d := range States(now()) {
		d.Status.ID = i
		d.Status.Device = fmt.Sprintf("/dev/ublkb%d", i)
		h.Add(d)
	}
	return h
}

// NewMany returns a host with n devices, most of them well.
func NewMany(n int) *Host {
	h := &Host{Now: time.Now}
	few := States(time.Now())
	for i := range n {
		d := Well(h.Now(), fmt.Sprintf("disk-%02d", i), uint64(i%20+1)<<40)
		if i%13 == 5 {
			d = few[(i/13*3+2)%len(few)]
			d.Status.Name = fmt.Sprintf("%.8s-%02d", d.Status.Name, i)
			few = States(time.Now())
		}
		d.Status.ID = i
		d.Status.Device = fmt.Sprintf("/dev/ublkb%d", i)
		h.Add(d)
	}
	return h
}

// Well is a device that is well.
func Well(now time.Time, name string, bytes uint64) *Device {
	scrubbed, made := now.Add(-31*time.Hour), now.Add(-400*24*time.Hour)
	blocks := bytes / 512
	d := &Device{Status: control.Status{Name: name, UUID: "uuid of " + name,
		State: control.StateLive, Created: &made, Backing: "/dev/disk/by-id/ata-" + name,
		BlockSize: 512, SizeBlocks: blocks,
		Spare: control.Spare{Total: 262144, Free: 262144,
			Devices: []control.SpareDevice{{Device: "/dev/disk/by-id/ata-" + name,
				Total: 262144}}},
		IO: control.IO{Reads: 120_000, Writes: 80_000, ReadBytes: 9 << 30, WriteBytes: 7 << 30},
		Metadata: control.Metadata{Version: 4, Sequence: 12, LogUsed: 16384, LogSize: 8 << 20,
			Mirrors: []control.Mirror{{Location: "backing@1048576", State: "good"},
				{Location: fmt.Sprintf("backing@%d", bytes+1<<30), State: "good"}}},
		Table:    &control.Table{Entries: 0, Max: 500_000},
		Scrub:    control.Scrub{State: "idle", Total: blocks, LastFinished: &scrubbed},
		Breaker:  control.Breaker{State: "closed"},
		Requests: control.Requests{Most: 128}, ServerPID: 4711},
		ReadRate: 37 << 20, WriteRate: 11 << 20}
	head, tail := int64(64<<20), int64(bytes)
	disk := d.Status.Backing
	d.Regions = []control.SurfaceRegion{
		{Kind: control.RegionHead, Device: disk, Backing: true, Length: head},
		{Kind: control.RegionSuperblock, Device: disk, Backing: true, Length: 4096},
		{Kind: "mirror", Device: disk, Backing: true, Start: 1 << 20, Length: 24 << 20,
			State: "good"},
		{Kind: "displaced-head", Device: disk, Backing: true, Start: tail, Length: head},
		{Kind: "spare", Device: disk, Backing: true, Start: tail + head, Length: 1 << 30},
		{Kind: "mirror", Device: disk, Backing: true, Start: tail + head + 1<<30, Length: 24 << 20,
			State: "good"},
	}
	d.Latencies = Latencies(now.Add(-9*24*time.Hour), 0)
	d.Events = []page.Event{
		{Number: 1, Time: made, What: "start", Text: "served as a new device"},
		{Number: 2, Time: scrubbed.Add(-14 * time.Hour), What: "scrub", Text: "begun"},
		{Number: 3, Time: scrubbed, What: "scrub", Text: "finished: nothing was found"},
	}
	return d
}

// Latencies makes histograms as of a hard disk. heals is how many requests met a bad block.
func Latencies(started time.Time, heals uint64) *control.Latencies {
	hist := func(total, median, spread float64) control.Histogram {
		h := control.Histogram{}
		for i := 1; i < latency.Buckets-1; i++ {
			x := math.Log2(latency.Bound(i)/median) / spread
			if n := uint64(total * math.Exp(-x*x/2) / (spread * 2.5 * 4)); n > 0 {
				h.Buckets = append(h.Buckets, control.Bucket{Index: i, Count: n})
				h.SumNS += uint64(float64(n) * latency.Bound(i) * 1e9)
			}
		}
		return h
	}
	l := &control.Latencies{Started: started, TimedOneIn: 1, Requests: []control.RequestLatency{
		{Operation: "read", Path: "home", Histogram: hist(4e6, 6e-3, 1.4)},
		{Operation: "write", Path: "home", Histogram: hist(2e6, 8e-4, 2)}}}
	if heals > 0 {
		l.Requests = append(l.Requests,
			control.RequestLatency{Operation: "read", Path: "spare",
				Histogram: hist(4e4, 1.1e-2, 1)},
			control.RequestLatency{Operation: "write", Path: "spare",
				Histogram: hist(2e4, 3e-3, 1.5)},
			control.RequestLatency{Operation: "write", Path: "heal",
				Histogram: hist(float64(heals)*10, 2.1, 0.8)})
	}
	return l
}

// bad adds places that the disk failed: n of them until now, in days, each of some blocks.
func (d *Device) bad(now time.Time, n int, over time.Duration, state string) {
	step := d.Status.SizeBlocks / uint64(n+2) &^ 7
	number := d.Events[len(d.Events)-1].Number
	temperature := int8(38)
	for i := range n {
		block := uint64(i+1)*step + uint64(i*i%97)*8
		share := math.Sqrt(float64(i+1) / float64(n+1)) // more and more
		at := now.Add(-over + time.Duration(share*float64(over)))
		d.Runs = append(d.Runs, Run{block, 8, state})
		number++
		e := page.Event{Number: number, Time: at, What: "remap", HasBlock: true, Block: block,
			Count: 8, Errno: "EIO", Latency: 2100 * time.Millisecond, Temperature: &temperature,
			Text:  fmt.Sprintf("remapped to the spare region, from unit %d on; cause: write", i),
			Cause: "write"}
		if state == "pending" {
			e.What, e.Text = "pending", "noted as pending; cause: read"
			e.Cause, e.Errno = "read", "ENODATA"
		}
		d.Events = append(d.Events, e)
	}
	slices.SortFunc(d.Runs, func(a, b Run) int { return cmp.Compare(a.Block, b.Block) })
	st := &d.Status
	switch state {
	case "mapped":
		st.Remaps += uint64(n)
		st.Heals.Writes += uint64(n)
		st.Errors.Write += uint64(n)
		used := min(st.Spare.Free, uint64(n))
		st.Spare.Used, st.Spare.Free = st.Spare.Used+used, st.Spare.Free-used
	case "pending":
		st.Pending += uint64(8 * n)
		st.Errors.Read += uint64(n)
	case "lost":
		st.Lost += uint64(8 * n)
	}
	d.Latencies = Latencies(now.Add(-9*24*time.Hour), st.Heals.Writes+1)
}

// States returns a device in each state that the page knows. They have no numbers yet.
func States(now time.Time) []*Device {
	var all []*Device
	add := func(name string, bytes uint64, f func(*Device, *control.Status)) {
		d := Well(now, name, bytes)
		f(d, &d.Status)
		all = append(all, d)
	}
	addBad(now, add)
	addOther(now, add)
	return all
}

const tib = 1 << 40

// addBad adds a device that is well, and those whose disks fail.
func addBad(now time.Time, add func(string, uint64, func(*Device, *control.Status))) {
	add("archive", 16*tib, func(*Device, *control.Status) {})
	add("backup", 8*tib, func(d *Device, st *control.Status) {
		d.bad(now, 40, 25*24*time.Hour, "mapped")
		d.HealRate = 2
	})
	add("films", 4*tib, func(d *Device, st *control.Status) {
		d.bad(now, 12, 9*24*time.Hour, "mapped")
		d.bad(now, 3, time.Hour, "pending")
	})
	add("photos", 2*tib, func(d *Device, st *control.Status) {
		d.bad(now, 200, 12*24*time.Hour, "mapped")
		d.bad(now, 2, time.Hour, "lost")
		st.Spare.Total, st.Spare.Free = 1024, 1024-st.Spare.Used
	})
	add("scratch", tib, func(d *Device, st *control.Status) {
		d.bad(now, 30, 20*time.Hour, "mapped")
		st.State = control.StateTripped
		st.Breaker = control.Breaker{State: "open",
			Reason: "writes to the spare region fail as well", Kind: control.TripMedia}
		st.Reason = st.Breaker.Reason
		st.Action = "when the cause is gone: " + shell.Command("resume", st.Name)
		d.Events = append(d.Events, page.Event{Number: 100, Time: now.Add(-20 * time.Minute),
			What: "tripped", Text: "remapping stopped: no spare unit that was tried holds data"})
	})
	add("gone", tib, func(d *Device, st *control.Status) {
		st.State = control.StateTripped
		since := now.Add(-5 * time.Minute)
		st.WaitingSince = &since
		st.Breaker = control.Breaker{State: "open", Reason: "a device is missing",
			Kind: control.TripMissing}
		st.Missing = []string{st.Backing}
		st.Reason = "it answers ENODEV"
		st.Action = "attach the disk; when it is there again: " + shell.Command("resume", st.Name)
	})
	add("mail", tib/2, func(d *Device, st *control.Status) { dead(d) })
	add("full", tib, func(d *Device, st *control.Status) {
		st.Spare.Total, st.Spare.Free = 1000, 1000
		d.bad(now, 1000, 20*24*time.Hour, "mapped")
		st.State = control.StateDegraded
		st.Reason = "no spare unit is free: a write to one more bad block fails"
		st.Action = "copy the data to another disk while this one reads"
	})
}

// addOther adds devices that lack something else, or are busy.
func addOther(now time.Time, add func(string, uint64, func(*Device, *control.Status))) {
	add("mirrors", 3*tib, func(d *Device, st *control.Status) {
		st.Metadata.Mirrors[1].State = "rebuilding"
		st.State = control.StateDegraded
		st.Reason = "the mirror of the metadata at the end is rebuilding"
		st.Action = "wait: it is written again by itself"
	})
	add("returning", tib, func(d *Device, st *control.Status) {
		st.State = control.StateRecovering
		st.Reason = "a server is recovering the device; I/O waits until it has"
		st.Action = "wait a minute; if it stays so, see the end of /run/ublk-remap/returning.log"
	})
	add("silent", tib, func(d *Device, st *control.Status) {
		st.State = control.StateUnreachable
		st.Reason = "its server, process 4711, has not answered for 10s; whether I/O goes on is " +
			"not known"
		st.Action = "see what it waits for: " + shell.Command("status", st.Name)
		st.Metadata.Mirrors = nil
	})
	add("scrubbed", 12*tib, func(d *Device, st *control.Status) {
		st.Scrub.State, st.Scrub.Position, st.Scrub.Rate = "running", st.SizeBlocks*42/100, 180<<20
		d.Slow = []control.Range{{Block: 1 << 20, Count: 24}, {Block: 9 << 30, Count: 8}}
	})
	alert := func(st *control.Status, kind, text string) {
		st.Alerts = append(st.Alerts, control.Alert{Kind: kind, Severity: "warning", Text: text,
			Since: now.Add(-20 * time.Minute)})
	}
	add("slow", 2*tib, func(_ *Device, st *control.Status) {
		alert(st, "slow", "One request in a hundred of slow takes longer than a second.")
	})
	add("flapping", tib, func(d *Device, st *control.Status) {
		st.Errors.Transport = 214
		st.Requests.Slow, st.Requests.SlowSince = 3, &now
		alert(st, "transport-errors", "The way to the disk of flapping has errors: 214. Cable, "+
			"power or controller may be the cause.")
		alert(st, "slow", "One request in a hundred of flapping takes longer than a second.")
	})
	add(Hostile, tib, func(d *Device, st *control.Status) {
		st.Backing = "/dev/" + strings.Repeat("A", 4096) + Hostile
		dead(d)
	})
}

// dead makes a device one whose server is dead.
func dead(d *Device) {
	st := &d.Status
	*st = control.Status{Name: st.Name, UUID: st.UUID, State: control.StateFailed,
		Reason:  "its server is dead; I/O waits for the next one",
		Action:  "to go on: " + shell.Command("start", st.Name),
		Backing: st.Backing, BlockSize: st.BlockSize, SizeBlocks: st.SizeBlocks,
		Metadata: control.Metadata{Mirrors: []control.Mirror{}},
		Scrub:    control.Scrub{State: "idle"}, Breaker: control.Breaker{State: "closed"}}
}

// ErrList is an error for FailLists.
var ErrList = errors.New("the driver does not answer")

// Kill makes the server of a device die.
func (h *Host) Kill(name string) {
	h.Change(name, func(d *Device) {
		device, id := d.Status.Device, d.Status.ID
		dead(d)
		d.Status.Device, d.Status.ID = device, id
	})
}
