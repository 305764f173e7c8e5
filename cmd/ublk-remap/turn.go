package main

import (
	"context"
	"path/filepath"
	"time"

	"ublkremap/internal/control"
)

const (
	// startTurn is how long a start waits for others that begin. It is not meant to be reached:
	// whoever waited for so long would begin together with all others that did. A turn is short
	// enough for hundreds of starts on a slow machine.
	startTurn = time.Hour
	// stopTurn is how long a stop waits for others.
	stopTurn = time.Minute
)

// turnToStart waits until few enough other starts are under way. release says that this one is
// done. A device that waits for its server does not wait for this.
func (a *app) turnToStart(ctx context.Context, what string) (release func()) {
	if awaitsServer(what) {
		return func() {}
	}
	// Without the directory nobody would wait. An error is told by whatever needs it next.
	_ = control.MakeDir()
	defer a.extend("")() // a unit must not fail for it
	return control.Turn(ctx, startTurn)
}

// awaitsServer reports whether a record tells of a device of what is to be started.
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
