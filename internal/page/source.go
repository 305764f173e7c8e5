package page

import (
	"context"
	"time"

	"ublkremap/internal/control"
)

// Source is asked about devices. Its methods are called on several goroutines. Each is given a
// context with a deadline; if one does not return even then, it is not called again for that device
// until it does.
type Source interface {
	// List returns the status of all devices, at least their names. It does not wait for servers.
	// With an error it returns those that could be found.
	List(ctx context.Context) ([]Listed, error)
	// Status returns the status of a device by its name.
	Status(ctx context.Context, name string) (*control.Status, error)
	// Latencies returns what the server has measured.
	Latencies(ctx context.Context, name string) (*control.Latencies, error)
	// Scrub returns the state of the scrub, with the blocks that are slow to read.
	Scrub(ctx context.Context, name string) (*control.ScrubStatus, error)
	// Surface is control.Client.Surface.
	Surface(ctx context.Context, name string, from, to uint64, cells int) (*control.Surface, error)
	// Events returns a part of what the flight recorder keeps from an event on. There are no more
	// if the list is empty.
	Events(ctx context.Context, name string, from uint64) ([]Event, error)
}

// Listed is a device of a list.
type Listed struct {
	Status *control.Status
	// Asked: Status is all that can be known, because no server can be asked.
	Asked bool
}

// Event is something that happened to a device. The strings are not safe to show.
type Event struct {
	Number      uint64 // counts the events of a set, from 1
	Time        time.Time
	What        string // name of its kind
	HasBlock    bool
	Block       uint64 // the first one
	Count       uint32 // blocks, or what Text says
	Errno       string // such as EIO; empty: none
	Latency     time.Duration
	Temperature *int8  // °C; nil: not known
	Text        string // what was done, in words
	// Cause is why blocks were remapped or became pending, for health.ByDisk; empty for others.
	Cause string
	// Of is the name of the kind of those that an event of the kind thinned stands for.
	Of string
}
