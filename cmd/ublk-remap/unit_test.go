package main

import (
	"testing"
	"time"
)

func TestRestartPause(t *testing.T) {
	for restarts, want := range map[uint32]time.Duration{0: 0, 1: pauseLeast, 2: 2 * pauseLeast,
		5: 16 * pauseLeast, 6: pauseMost, 1000: pauseMost, 1<<32 - 1: pauseMost} {
		if got := restartPause(restarts); got != want {
			t.Errorf("%d restarts: %v, want %v", restarts, got, want)
		}
	}
}
