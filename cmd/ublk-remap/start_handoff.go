package main

import (
	"encoding/json"
	"fmt"
	"os"

	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
)

// handoffEnv is the variable that tells the processes that start makes which disk start has found,
// so that they need not read the superblock again. It is not a flag, because upgrade reads the
// command line of a server. The upgrade of an older version does so too, and refuses flags that it
// does not know.
const handoffEnv = "UBLK_REMAP_BACKING"

// handoff is what start has found out about a disk.
type handoff struct {
	What    string       `json:"what"` // as the user named it
	Backing string       `json:"backing"`
	Set     set.Identity `json:"set"`
}

// handoffOf returns what start passes on about a disk.
func handoffOf(what string, b *host.Backing) *handoff {
	return &handoff{What: what, Backing: b.Path, Set: set.IdentityOf(b.Superblock)}
}

// env returns the environment of a process that gets the handoff.
func (t *handoff) env() ([]string, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	return append(os.Environ(), handoffEnv+"="+string(text)), nil
}

// receiveHandoff returns the handoff that this process got for a disk that the user named, or nil.
func receiveHandoff(what string) (*handoff, error) {
	text := os.Getenv(handoffEnv)
	_ = os.Unsetenv(handoffEnv) // no child of this process gets it
	if text == "" {
		return nil, nil
	}
	var t handoff
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return nil, fmt.Errorf("%s: %w", handoffEnv, err)
	}
	if t.What != what {
		return nil, nil // of another start
	}
	return &t, nil
}
