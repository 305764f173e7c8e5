// Package recorder reads what is new in the flight recorder of a device of this host, in the form
// in which the disk has it.
package recorder

import (
	"context"

	"ublkremap/internal/control"
	"ublkremap/internal/recorder"
	"ublkremap/metadata"
)

// Place is the event that a reader has seen last. The zero value: none.
type Place = recorder.Place

// Since returns the events after p of the server of that name, oldest first, and moves p behind
// them. If the recorder does not have the event at p any more, these are the events that are later
// than it. The errors are those of control.Client.Events; p is then as it was.
func Since(ctx context.Context, name string, p *Place) ([]metadata.Event, error) {
	c, seen := control.NewClient(name), *p
	list, anew, err := recorder.Since(ctx, func(ctx context.Context,
		from uint64) ([]metadata.Event, error) {
		e, err := c.Events(ctx, from)
		if err != nil {
			return nil, err
		}
		return metadata.AppendEvents(nil, e.Events, e.First), nil
	}, placeOf, p)
	if anew {
		list = recorder.Later(list, placeOf, seen)
	}
	return list, err
}

func placeOf(e *metadata.Event) Place { return Place{Number: e.Number, Micros: e.Micros} }
