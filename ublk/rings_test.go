package ublk_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest"
	"ublkremap/ublk"
)

// forbidRings sets kernel.io_uring_disabled until the test ends.
func forbidRings(t *testing.T, value string) {
	t.Helper()
	const path = "/proc/sys/kernel/io_uring_disabled"
	if !vmtest.InGuest() {
		t.Skip("changes the machine; make test-vm runs this test in a guest")
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			t.Error(err)
		}
	})
}

// TestRingsAreKept: commands with reserved rings still work when no process may make rings any
// more. Other commands say why they do not work.
func TestRingsAreKept(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	if err := s.ctl.Reserve(2); err != nil {
		t.Fatal(err)
	}
	forbidRings(t, "2")
	for range 20 {
		if _, err := s.ctl.Info(within(t), s.Info().ID); err != nil {
			t.Fatal(err)
		}
	}
	other := control(t)
	_, err := other.Info(within(t), s.Info().ID)
	var forbidden *ublk.RingForbiddenError
	if !errors.As(err, &forbidden) || !errors.Is(err, ublk.ErrNotSupported) ||
		!strings.Contains(err.Error(), "sysctl kernel.io_uring_disabled=0") {
		t.Errorf("without a ring: %v", err)
	}
	s.remove(t)
}

// TestServed: whether a device has a server is asked of the kernel.
func TestServed(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params(), Recovery: ublk.Require},
		ublk.RunOptions{})
	id := s.Info().ID
	if served, err := ublk.Served(within(t), id); err != nil || !served {
		t.Errorf("with a server: %v, %v", served, err)
	}
	if err := s.Leave(within(t)); err != nil {
		t.Fatal(err)
	}
	// The rings of a server that left are closed by the kernel, later.
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if served, err := ublk.Served(within(t), id); err != nil || !served ||
			time.Now().After(deadline) {
			break
		}
	}
	for range 3 { // asking changes nothing
		if served, err := ublk.Served(within(t), id); err != nil || served {
			t.Errorf("without a server: %v, %v", served, err)
		}
	}
	if err := s.ctl.Stop(within(t), id); err != nil {
		t.Error(err)
	}
	s.remove(t)
	if _, err := ublk.Served(within(t), id); !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("without a device: %v", err)
	}
}
