package server

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file tells the flight recorder what only the server knows: that it starts and stops, what
// the counters of the queues say, that I/O hangs, and how warm the disk is. It looks every few
// seconds, outside of the I/O path.

const (
	eventsPoll = 10 * time.Second
	// The temperature is read when something has happened, and at most this often: a drive that
	// sleeps is left alone, and one that is busy is not asked for every event.
	temperatureEvery = time.Minute
	// temperatureHolds is how long a reading counts.
	temperatureHolds = 15 * time.Minute
	// maxEvents is how many events one answer has.
	maxEvents = 1000
)

// temperature is the last reading of a disk's thermometer. The keeper reads it.
type temperature struct {
	meter *blockdev.Thermometer
	at    atomic.Int64 // monotonic ns of the last reading; 0: there is none
	value atomic.Int32
}

// read asks the disk.
func (t *temperature) read() {
	if celsius, known := t.meter.Read(); known {
		t.value.Store(int32(celsius))
		t.at.Store(max(monotonic(), 1))
	}
}

// last returns the last reading, unless it is too old. It does not block.
func (t *temperature) last() (celsius int8, known bool) {
	at := t.at.Load()
	if at == 0 || monotonic()-at > int64(temperatureHolds) {
		return 0, false
	}
	return int8(t.value.Load()), true
}

// recorder is what the flight recorder needs to know of the world.
func (t *temperature) recorder() *coordinator.Events {
	return &coordinator.Events{Micros: func() int64 { return time.Now().UnixMicro() },
		Temperature: t.last}
}

// note notes an event, unless the keeper has ended.
func (k *keeper) note(e metadata.Event) {
	_ = k.call(context.Background(), func() { k.coord.Note(e) })
}

// noteStart notes that the device is served.
func (s *server) noteStart() {
	kind := metadata.EventStart
	if !s.created {
		kind = metadata.EventRecovery
	}
	s.keeper.note(metadata.Event{Kind: kind, Detail: uint64(s.info().ID)})
}

// eventsWatch is what was seen last.
type eventsWatch struct {
	counters remap.Counters
	hung     *hangDisk
	number   uint64
	warmth   int64 // monotonic ns of the last look at the thermometer
}

// watchEvents looks at what tells nobody by itself, until end is closed.
func (s *server) watchEvents(end <-chan struct{}) {
	tick := time.NewTicker(eventsPoll)
	defer tick.Stop()
	w := eventsWatch{counters: s.allCounters()}
	s.temperature.read()
	for {
		select {
		case <-end:
			return
		case now := <-tick.C:
			s.lookForEvents(&w, now)
		}
	}
}

// allCounters are those of the user's requests and of internal ones, as far as they are noted.
func (s *server) allCounters() remap.Counters {
	c, i := s.shared.Counters(), s.shared.InternalCounters()
	c.TransportErrors += i.TransportErrors
	c.HealedReads += i.HealedReads
	return c
}

// lookForEvents notes what has changed since the last look.
func (s *server) lookForEvents(w *eventsWatch, now time.Time) {
	c := s.allCounters()
	for _, e := range [...]struct {
		kind metadata.EventKind
		n    uint64
	}{
		{metadata.EventErrors, c.TransportErrors - w.counters.TransportErrors},
		{metadata.EventFlushFailed, c.FlushErrors - w.counters.FlushErrors},
		{metadata.EventRetriedRead, c.HealedReads - w.counters.HealedReads},
	} {
		if e.n > 0 {
			s.keeper.note(metadata.Event{Kind: e.kind, Count: uint32(e.n)})
		}
	}
	w.counters = c
	disk, since := s.hangs.waiting(now)
	switch {
	case disk != nil && w.hung == nil:
		s.keeper.note(metadata.Event{Kind: metadata.EventHang, Done: metadata.EventBegun,
			HasLatency: true, Latency: metadata.Micros(now.Sub(since))})
	case disk == nil && w.hung != nil:
		s.keeper.note(metadata.Event{Kind: metadata.EventHang, Done: metadata.EventFinished})
	}
	w.hung = disk
	var number uint64
	_ = s.keeper.call(context.Background(), func() {
		_, _, number, _ = s.keeper.coord.AppendEvents(nil, 0, 0)
	})
	if mono := monotonic(); number != w.number && mono-w.warmth >= int64(temperatureEvery) {
		w.number, w.warmth = number, mono
		s.temperature.read()
	}
}

// Events returns what the flight recorder keeps, from a number on.
func (s *server) Events(ctx context.Context, from uint64) (*control.Events, error) {
	var kept bool
	e := &control.Events{Events: []byte{}}
	if err := s.keeper.call(ctx, func() {
		e.Events, e.First, e.Next, kept = s.keeper.coord.AppendEvents(e.Events, from, maxEvents)
	}); err != nil {
		return nil, err
	}
	if !kept {
		return nil, fmt.Errorf("%s: %w: this set has no flight recorder, because its metadata has "+
			"no room for one (physical blocks of 64 KiB)", s.name, control.ErrNotFound)
	}
	return e, nil
}
