package server

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHung: a queue whose thread has not answered is hung, and so is a keeper that takes no calls.
func TestHung(t *testing.T) {
	r := newFakeRing(t, false)
	k := r.h.keeper
	k.calls, k.ended = make(chan func()), make(chan struct{})
	if got := k.hung(time.Millisecond); got != "the keeper" {
		t.Errorf("a keeper that takes no call: %q", got)
	}
	go func() {
		for f := range k.calls {
			f()
		}
	}()
	defer close(k.calls)
	if got := k.hung(time.Minute); got != "" {
		t.Errorf("a queue that was not asked: %q", got)
	}
	k.askQueues()
	if r.woken != 1 {
		t.Fatalf("the queue was woken %d times", r.woken)
	}
	if got := k.hung(time.Minute); got != "queue 0" {
		t.Errorf("a queue that does not answer: %q", got)
	}
	k.askQueues()
	if r.woken != 1 {
		t.Error("a queue that has not answered is asked again")
	}
	r.h.Wake()
	if got := k.hung(time.Minute); got != "" {
		t.Errorf("a queue that has answered: %q", got)
	}
	k.askQueues()
	if got := k.hung(time.Minute); got != "queue 0" {
		t.Errorf("a queue that has answered before: %q", got)
	}
}

func TestInKernel(t *testing.T) {
	if inKernel(unix.Gettid()) || inKernel(-1) {
		t.Error("a thread that runs waits in the kernel")
	}
}
