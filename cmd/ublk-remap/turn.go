package main

import (
	"context"
	"path/filepath"
	"time"

	"ublkremap/internal/control"
)

const (
	// startTurn is how long a start waits for other starts. It should never be reached, because all
	// starts that reach it would then begin together. A turn is short enough for hundreds of starts
	// on a slow machine.
	startTurn = time.Hour
	// stopTurn is how long a stop waits for others.
	stopTurn = time.Minute
)

// turnToStart waits until few enough other starts are under way. release ends this process's turn.
// A device that waits for its server does not wait for a turn.
func (a *app) turnToStart(ctx context.Context, what string) (release func()) {
	if awaitsServer(what) {
		return func() {}
	}
	// Without the runtime directory no process would wait. The next step that needs the directory
	// reports the error.
	_ = control.MakeDir()
	defer a.extendLater()() // a unit must not fail for it
	return control.Turn(ctx, startTurn)
}

// awaitsServer reports whether a record names a device of the set that is to be started.
func awaitsServer(what string) bool {
	records, _ := control.Records()
	path, err := filepath.Abs(what)
	for _, r := range records {
		if r.Name == what || r.UUID == what || err == nil && r.Backing == path {
			return true
		}
	}
	return false
}
