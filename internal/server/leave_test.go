package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"ublkremap/internal/control"
)

func liveServer() *server {
	s := &server{stopAsked: make(chan struct{}), leaveAsked: make(chan struct{})}
	s.live.Store(true)
	return s
}

// A request in the name of an upgrade that was given up does nothing, whenever it arrives. An
// upgrade that was carried out cannot be given up.
func TestStayAndLeave(t *testing.T) {
	ctx := context.Background()
	s := liveServer()
	if err := s.Stay(ctx, "dead"); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(ctx, "dead"); !errors.Is(err, control.ErrRefused) {
		t.Errorf("leave for an upgrade that was given up: %v", err)
	}
	select {
	case <-s.leaveAsked:
		t.Error("it leaves")
	default:
	}
	if err := s.Leave(ctx, "alive"); err != nil {
		t.Errorf("leave for another upgrade: %v", err)
	}
	<-s.leaveAsked
	if err := s.Stay(ctx, "alive"); !errors.Is(err, control.ErrRefused) {
		t.Errorf("stay of a server that leaves: %v", err)
	}
	s = liveServer()
	if will, _ := s.end(endStop); !will {
		t.Fatal("it does not stop")
	}
	if err := s.Stay(ctx, "late"); !errors.Is(err, control.ErrRefused) {
		t.Errorf("stay of a server that stops: %v", err)
	}
}

// The list of upgrades that were given up is bounded, however many there are. It holds the last
// ones.
func TestStaysAreBounded(t *testing.T) {
	ctx := context.Background()
	s := liveServer()
	for i := range 10 * maxStays {
		if err := s.Stay(ctx, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.stays) != maxStays {
		t.Errorf("%d tokens are kept", len(s.stays))
	}
	for i := 9 * maxStays; i < 10*maxStays; i++ {
		if err := s.Leave(ctx, fmt.Sprint(i)); !errors.Is(err, control.ErrRefused) {
			t.Fatalf("token %d: %v", i, err)
		}
	}
}
