package control

import (
	"context"
	"testing"
	"time"
)

// TestTurn: only so many processes have their turn at once. When one ends its turn, another one
// gets it.
func TestTurn(t *testing.T) {
	t.Setenv(DirEnv, t.TempDir())
	if err := MakeDir(); err != nil {
		t.Fatal(err)
	}
	var all []func()
	for range turns() {
		all = append(all, Turn(t.Context(), time.Hour))
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan func(), 1)
	go func() { got <- Turn(ctx, time.Hour) }()
	select {
	case <-got:
		t.Fatal("too many have their turn")
	case <-time.After(10 * turnPoll): // a wrong Turn would return within this time
	}
	all[1]()
	all[1]()
	last := <-got
	last()
	// A process that waited for too long goes on without a turn.
	all[1] = Turn(t.Context(), time.Hour)
	cancel()
	Turn(ctx, time.Hour)()
	Turn(t.Context(), turnPoll)()
	for _, release := range all {
		release()
	}
	t.Setenv(DirEnv, "/nonexistent/dir")
	Turn(t.Context(), time.Hour)()
}

// TestTurnPause: who has waited for a moment looks often, and who has waited for long less often.
func TestTurnPause(t *testing.T) {
	for waited, want := range map[time.Duration]time.Duration{
		0: turnPoll, time.Millisecond: turnPoll, 4 * time.Second: 500 * time.Millisecond,
		time.Hour: turnPollMost,
	} {
		if got := turnPause(waited); got != want {
			t.Errorf("after %s: %s, want %s", waited, got, want)
		}
	}
}
