// Package recorder reads what is new in the flight recorder of a device.
//
// Events are written some seconds after they happened, so the last ones before a crash may not be
// on the disk. The next server uses their numbers again. So a number alone does not say what a
// reader has seen; the number and the time together do.
package recorder

import (
	"context"

	"ublkremap/internal/control"
	"ublkremap/metadata"
)

// Ask returns a part of what a recorder has, from an event on. There are no more if it is empty.
type Ask func(ctx context.Context, from uint64) ([]metadata.Event, error)

// Of asks the server of a device. The errors are those of control.Client.Events.
func Of(name string) Ask {
	c := control.NewClient(name)
	return func(ctx context.Context, from uint64) ([]metadata.Event, error) {
		e, err := c.Events(ctx, from)
		if err != nil {
			return nil, err
		}
		return metadata.AppendEvents(nil, e.Events, e.First), nil
	}
}

// Place is the event that a reader has seen last. The zero value: none.
type Place struct {
	Number uint64
	Micros int64 // its time, microseconds since 1970
}

// mostAnswers bounds what is read at once, when events come as fast as they are read.
const mostAnswers = 64

// Since returns the events after p, oldest first, and moves p behind them. If the recorder does not
// have the event at p any more, these are the events that are later than it. The error is that of
// ask; p is then as it was.
func Since(ctx context.Context, ask Ask, p *Place) ([]metadata.Event, error) {
	if p.Number > 0 {
		list, err := read(ctx, ask, p.Number)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 && placeOf(&list[0]) == *p {
			*p = placeOf(&list[len(list)-1])
			return list[1:], nil
		}
	}
	all, err := read(ctx, ask, 0)
	if err != nil {
		return nil, err
	}
	var later []metadata.Event
	for i := range all {
		if all[i].Micros > p.Micros {
			later = append(later, all[i])
		}
	}
	p.Number = 0
	if n := len(all); n > 0 {
		*p = placeOf(&all[n-1])
	}
	return later, nil
}

func placeOf(e *metadata.Event) Place { return Place{e.Number, e.Micros} }

// read returns all events from a number on.
func read(ctx context.Context, ask Ask, from uint64) ([]metadata.Event, error) {
	var all []metadata.Event
	for range mostAnswers {
		list, err := ask(ctx, from)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			break
		}
		all = append(all, list...)
		from = list[len(list)-1].Number + 1
	}
	return all, nil
}
