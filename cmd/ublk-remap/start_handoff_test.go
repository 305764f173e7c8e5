package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"

	"ublkremap/internal/host/set"
)

// TestHandoff: a process takes the handoff of start once, and only for the disk that the user
// named.
func TestHandoff(t *testing.T) {
	want := handoff{What: "a disk", Backing: "/dev/x", Set: set.Identity{Name: "ümläut \"x\"",
		UUID: uuid.New(), Epoch: 1 << 60, Started: 7}}
	env, err := want.env()
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(env[len(env)-1], "=")
	hear := func(text, what string) (*handoff, error) {
		t.Setenv(handoffEnv, text)
		got, err := receiveHandoff(what)
		if os.Getenv(handoffEnv) != "" {
			t.Error("a child would hear it too")
		}
		return got, err
	}
	if got, err := hear(value, "a disk"); err != nil || got == nil || *got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := hear(value, "another"); err != nil || got != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := hear("", "a disk"); err != nil || got != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := hear("{", "a disk"); err == nil {
		t.Error("nonsense was understood")
	}
}
