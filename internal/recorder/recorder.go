// Package recorder reads what is new in the flight recorder of a device, for readers that ask again
// and again. They may have their own form of an event.
//
// Events are written some seconds after they happened, so the last ones before a crash may not be
// on the disk. The next server uses their numbers again. So a number alone does not say what a
// reader has seen; the number and the time together do.
package recorder

import "context"

// Ask returns a part of what a recorder has, from an event on. There are no more if it is empty.
type Ask[E any] func(ctx context.Context, from uint64) ([]E, error)

// Place is the event that a reader has seen last. The zero value: none.
type Place struct {
	Number uint64
	Micros int64 // its time, microseconds since 1970
}

// mostAnswers bounds what is read at once, when events come as fast as they are read.
const mostAnswers = 64

// Since returns the events after p, oldest first, and moves p behind them; at says where an event
// is. If the recorder does not have the event at p, or p is none, anew is set, and the list has all
// events that the recorder has: see [Later]. The error is that of ask; p is then as it was.
func Since[E any](ctx context.Context, ask Ask[E], at func(*E) Place, p *Place) (list []E,
	anew bool, err error) {
	if p.Number > 0 {
		list, err = read(ctx, ask, at, p.Number)
		if err != nil {
			return nil, false, err
		}
		if len(list) > 0 && at(&list[0]) == *p {
			*p = at(&list[len(list)-1])
			return list[1:], false, nil
		}
	}
	list, err = read(ctx, ask, at, 0)
	if err != nil {
		return nil, false, err
	}
	p.Number = 0
	if n := len(list); n > 0 {
		*p = at(&list[n-1])
	}
	return list, true, nil
}

// Later returns those events that happened after a place: of all that a recorder has, those that
// its reader has not seen.
func Later[E any](list []E, at func(*E) Place, p Place) []E {
	var later []E
	for i := range list {
		if at(&list[i]).Micros > p.Micros {
			later = append(later, list[i])
		}
	}
	return later
}

// read returns all events from a number on.
func read[E any](ctx context.Context, ask Ask[E], at func(*E) Place, from uint64) ([]E, error) {
	var all []E
	for range mostAnswers {
		list, err := ask(ctx, from)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			break
		}
		all = append(all, list...)
		from = at(&list[len(list)-1]).Number + 1
	}
	return all, nil
}
