package top

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ublkremap/internal/control"
)

// epoch is the time at which the clock of these tests stands.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fake is a host with four devices: one in order, one with bad blocks of all kinds, one whose name
// is hostile and whose server is dead, and one whose server hangs.
type fake struct {
	// Questions to the server that hangs end when it is closed. nil: they end with errHangs.
	hangs  chan struct{}
	beats  uint64 // how often the disk in order was read
	panics bool
	count  int // devices, of which the four come first; 0: only these four
	events func(from uint64) []Event
}

// errHangs is in place of an answer that does not come.
var errHangs = errors.New("hangs")

const hostile = "\x1b[2Jevil\u202ename\n" // a disk from elsewhere

func (f *fake) devices() []*control.Status {
	scrubbed := epoch.Add(-time.Hour)
	all := []*control.Status{
		{Device: "/dev/ublkb0", Name: "archive", UUID: "a", State: control.StateLive, ServerPID: 10,
			Backing: "/dev/sda", BlockSize: 512, SizeBlocks: 4 << 21,
			Spare: control.Spare{Total: 1000, Used: 0, Free: 1000},
			Scrub: control.Scrub{State: "idle", Total: 4 << 21, LastFinished: &scrubbed}},
		{Device: "/dev/ublkb1", ID: 1, Name: "media", UUID: "b", State: control.StateDegraded,
			Reason: "a mirror of the metadata is stale", Action: "ublk-remap health media",
			ServerPID: 11, Backing: "/dev/sdb", BlockSize: 512, SizeBlocks: 8000000,
			Spare: control.Spare{Total: 10000, Used: 700, Free: 9300}, Remaps: 700, Pending: 40,
			Lost: 8, Heals: control.Heals{Writes: 690, Reads: 12, Failed: 2},
			Scrub: control.Scrub{State: "running", Position: 3000000, Total: 8000000}},
		{Device: "/dev/ublkb2", ID: 2, Name: hostile, UUID: "c", State: control.StateFailed,
			Reason: "its server is dead; I/O waits for the next one",
			Action: "to go on: ublk-remap start evil", Backing: "/dev/sdc", BlockSize: 512,
			SizeBlocks: 1 << 20},
		{Device: "/dev/ublkb3", ID: 3, Name: "stuck", UUID: "d", State: control.StateLive,
			ServerPID: 13, Backing: "/dev/sdd", BlockSize: 4096, SizeBlocks: 1 << 20},
	}
	for i := len(all); i < f.count; i++ {
		s := *all[0]
		s.Device, s.ID = fmt.Sprintf("/dev/ublkb%d", i), i
		s.Name, s.UUID = fmt.Sprintf("pool-of-many-disks-%d", i), fmt.Sprint(i)
		all = append(all, &s)
	}
	if f.count > 0 {
		all = all[:f.count]
	}
	return all
}

func (f *fake) List(context.Context) ([]Listed, error) {
	var list []Listed
	for _, s := range f.devices() {
		list = append(list, Listed{Status: &control.Status{Device: s.Device, ID: s.ID, Name: s.Name,
			UUID: s.UUID, Backing: s.Backing, State: s.State}})
	}
	return list, nil
}

func (f *fake) Status(_ context.Context, name string) (*control.Status, error) {
	for _, s := range f.devices() {
		if s.Name == name {
			if name == "stuck" && f.hangs == nil {
				return nil, errHangs
			} else if name == "stuck" {
				<-f.hangs // it does not even look at its context
			}
			if s.ServerPID == 0 {
				return s, nil
			}
			s.IO.ReadBytes = f.beats * 50 << 20
			s.IO.WriteBytes = f.beats * f.beats << 20
			return s, nil
		}
	}
	return nil, errors.New("there is no such device")
}

func (f *fake) Surface(_ context.Context, name string, from, to uint64,
	cells int) (*control.Surface, error) {
	s := &control.Surface{BlockSize: 512, From: from, To: to,
		PerCell: (to-from-1)/uint64(cells) + 1, Regions: []control.SurfaceRegion{
			{Kind: "head", Backing: true, Length: 64 << 20},
			{Kind: "superblock", Backing: true, Length: 4096},
			{Kind: "mirror", Backing: true, Start: 1 << 20, Length: 8 << 20, State: "good"}}}
	if f.panics && name == "media" {
		panic("a planted panic")
	}
	switch name {
	case "archive":
		s.SizeBlocks = 4 << 21
	case "media":
		s.SizeBlocks = 8000000
		s.Regions = append(s.Regions, control.SurfaceRegion{Kind: "displaced-head", Backing: true,
			Start: 8000000 * 512, Length: 64 << 20}, control.SurfaceRegion{Kind: "spare",
			Backing: true, Start: 8000000*512 + 64<<20, Length: 300 << 20})
		for _, x := range []struct {
			at   uint64
			cell control.SurfaceCell
		}{{1000000, control.SurfaceCell{Mapped: 8}}, {1200000, control.SurfaceCell{Mapped: 692}},
			{2500000, control.SurfaceCell{Pending: 40, Mapped: 3}},
			{5000000, control.SurfaceCell{Lost: 8}}} {
			if x.at >= from && x.at < to {
				x.cell.Cell = (x.at - from) / s.PerCell
				s.Cells = append(s.Cells, x.cell)
			}
		}
	default:
		return nil, errors.New("its server does not answer")
	}
	return s, nil
}

func (f *fake) Slow(_ context.Context, name string) ([]control.Range, error) {
	if name == "media" {
		return []control.Range{{Block: 3600000, Count: 8}}, nil
	}
	return nil, nil
}

func (f *fake) Events(_ context.Context, name string, from uint64) ([]Event, error) {
	if f.events != nil {
		return f.events(from), nil
	}
	if name == "stuck" {
		return nil, errors.New("its server does not answer")
	}
	list := []Event{
		{Number: 1, What: "start", Text: "served as /dev/ublkb0"},
		{Number: 2, What: "remap", HasBlock: true, Block: 1200000, Count: 8,
			Text: "a write failed; mapped"},
		{Number: 3, What: "retried-read", Count: 2, Text: "2 reads\x1b[2J succeeded"},
	}
	for i := range list {
		list[i].Time = epoch.Add(time.Duration(i-5) * time.Minute)
	}
	if from > 3 {
		return nil, nil
	}
	return list[max(from, 1)-1:], nil
}
