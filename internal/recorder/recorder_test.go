package recorder

import (
	"context"
	"errors"
	"testing"
)

// event is an event of the kind that this package knows nothing else of.
type event struct {
	number uint64
	micros int64
}

func placeOf(e *event) Place { return Place{e.number, e.micros} }

// ring answers as a server does, at most two events at a time.
type ring struct {
	list []event
	err  error
}

func (r *ring) ask(_ context.Context, from uint64) ([]event, error) {
	if r.err != nil {
		return nil, r.err
	}
	for i := range r.list {
		if r.list[i].number >= from {
			return r.list[i:min(i+2, len(r.list))], nil
		}
	}
	return nil, nil
}

// note notes events at these times.
func (r *ring) note(micros ...int64) {
	for _, m := range micros {
		n := uint64(1)
		if len(r.list) > 0 {
			n = r.list[len(r.list)-1].number + 1
		}
		r.list = append(r.list[:len(r.list):len(r.list)], event{n, m})
	}
}

// crash loses the last events.
func (r *ring) crash(n int) { r.list = r.list[:len(r.list)-n] }

// TestSince: each event is read once, whatever becomes of the recorder.
func TestSince(t *testing.T) {
	r, p := &ring{}, Place{}
	want := func(micros ...int64) {
		t.Helper()
		seen := p
		list, anew, err := Since(t.Context(), r.ask, placeOf, &p)
		if anew {
			if len(list) != len(r.list) {
				t.Fatalf("%d of %d events", len(list), len(r.list))
			}
			list = Later(list, placeOf, seen)
		}
		got := []int64{}
		for _, e := range list {
			got = append(got, e.micros)
		}
		if err != nil || len(got) != len(micros) {
			t.Fatalf("%v, %v; want %v", got, err, micros)
		}
		for i, m := range micros {
			if got[i] != m {
				t.Fatalf("%v, want %v", got, micros)
			}
		}
	}
	want()
	r.note(10, 20, 30, 40, 50)
	want(10, 20, 30, 40, 50)
	want()
	r.note(60)
	want(60)
	// Fewer events come than were lost, as many, more.
	for after := range int64(4) {
		base := 100 * (after + 1)
		r.note(base, base+1)
		want(base, base+1)
		r.crash(2)
		var come []int64
		for i := range after {
			come = append(come, base+10+i)
		}
		r.note(come...)
		want(come...)
		r.note(base + 50)
		want(base + 50)
		want()
	}
	// The first event that was seen is lost, and so is the whole recorder.
	r.list = nil
	want()
	r.note(1000)
	want(1000)
	// What was seen last is overwritten by a flood.
	r.note(1001, 1002, 1003)
	r.list = r.list[2:]
	want(1002, 1003)
	r.err = errors.New("the server is away")
	if _, _, err := Since(t.Context(), r.ask, placeOf, &p); !errors.Is(err, r.err) {
		t.Error(err)
	}
	r.err = nil
	r.note(1004)
	want(1004)
	// The clock is set back: what comes now is still new.
	r.note(500)
	want(500)
	r.note(501)
	want(501)
}
