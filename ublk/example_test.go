package ublk_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// A device that is a piece of memory, until interrupted.
func Example() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := serveMemory(ctx, 64<<20); err != nil {
		log.Fatal(err)
	}
}

func serveMemory(ctx context.Context, size int64) error {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	target, err := ublktest.NewRAM(size)
	if err != nil {
		return err
	}
	defer target.Close()
	dev, err := ublk.Create(ctx, ctl, ublk.Config{ID: ublk.AnyID, Queues: 2,
		Params: target.Params()})
	if err != nil {
		return err
	}
	go func() {
		<-dev.Ready()
		fmt.Println("serving", dev.Info().BlockPath())
	}()
	if err := dev.Run(ctx, target, ublk.RunOptions{}); err != nil {
		return err
	}
	// The context is over; the deletion has a deadline of its own.
	return dev.Delete(context.Background())
}

// zeroes reads as zeroes and forgets what is written: the smallest useful target.
type zeroes struct{}

func (zeroes) NewQueue(q *ublk.Queue) (ublk.Handler, error) { return zeroHandler{q}, nil }

type zeroHandler struct{ q *ublk.Queue }

func (h zeroHandler) Request(r ublk.Request) {
	if r.Op == ublk.OpRead {
		clear(h.q.RequestBytes(r.Tag)) // made without zero copy, so the data is in reach
	}
	h.q.Done(r.Tag, int32(r.Length()))
}
func (zeroHandler) Complete(uint64, int32)  {}
func (zeroHandler) Wake()                   {}
func (zeroHandler) EndBatch() time.Duration { return 0 }
func (zeroHandler) Close()                  {}

// A Target and its Handler.
func ExampleTarget() {
	ctx := context.Background()
	ctl, err := ublk.OpenControl()
	if err != nil {
		log.Fatal(err)
	}
	defer ctl.Close()
	cfg := ublk.Config{ID: ublk.AnyID, ZeroCopy: ublk.Never, Params: ublk.Params{Size: 1 << 30}}
	dev, err := ublk.Create(ctx, ctl, cfg)
	if err != nil {
		log.Fatal(err)
	}
	if err := dev.Run(ctx, zeroes{}, ublk.RunOptions{}); err != nil {
		log.Fatal(err)
	}
}
