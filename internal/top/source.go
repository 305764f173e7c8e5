package top

import (
	"context"
	"time"

	"ublkremap/internal/control"
)

// Source is asked about devices. Its methods are called on several goroutines, and may block until
// their context ends.
type Source interface {
	// List returns all devices, at least their names. It does not wait for servers.
	List(ctx context.Context) ([]Listed, error)
	// Status returns the status of a device by its name.
	Status(ctx context.Context, name string) (*control.Status, error)
	// Surface is control.Client.Surface.
	Surface(ctx context.Context, name string, from, to uint64, cells int) (*control.Surface, error)
	// Slow returns the blocks that are slow to read, as far as a scrub has found them.
	Slow(ctx context.Context, name string) ([]control.Range, error)
	// Events returns a part of what the flight recorder keeps, from an event on: see recorder.Ask.
	Events(ctx context.Context, name string, from uint64) ([]Event, error)
}

// Event is something that happened to a device.
type Event struct {
	Number   uint64 // counts the events of a set, from 1
	Time     time.Time
	What     string
	HasBlock bool
	Block    uint64 // the first one
	Count    uint32 // blocks
	Text     string // what was done, in words
}

// Listed is a device of a list.
type Listed struct {
	Status *control.Status
	// Asked: Status is all that can be known, because no server can be asked.
	Asked bool
}
