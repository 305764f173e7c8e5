package ublktest

import (
	"time"

	"ublkremap/ublk"
)

// Null answers every request with success and stores nothing: reads give whatever the
// buffer holds. It measures what the driver and the queue cost.
type Null struct{}

// NewQueue implements ublk.Target.
func (Null) NewQueue(q *ublk.Queue) (ublk.Handler, error) { return nullHandler{q}, nil }

type nullHandler struct{ q *ublk.Queue }

func (h nullHandler) Request(r ublk.Request)  { h.q.Done(r.Tag, int32(min(r.Length(), 1<<30))) }
func (h nullHandler) Complete(uint64, int32)  {}
func (h nullHandler) Wake()                   {}
func (h nullHandler) EndBatch() time.Duration { return 0 }
func (h nullHandler) Close()                  {}
