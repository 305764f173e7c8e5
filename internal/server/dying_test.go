package server

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
)

// TestOwnWaitsForTheDying: the name of a living server is refused at once. For the name of a dying
// server the caller waits.
func TestOwnWaitsForTheDying(t *testing.T) {
	t.Setenv(control.DirEnv, filepath.Join(t.TempDir(), "run"))
	if err := control.MakeDir(); err != nil {
		t.Fatal(err)
	}
	// The sleep process stands for the server's process; this test has the server's lock.
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	r := &control.Record{Name: "disk", UUID: "u", Device: "/dev/ublkb0", PID: cmd.Process.Pid}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	other, err := control.Own("disk")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{name: "disk"}
	if _, err := s.own(context.Background()); !errors.Is(err, control.ErrOwned) {
		t.Fatalf("the name of a server that lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for !host.Died(r) {
		time.Sleep(time.Millisecond)
	}
	got := make(chan error, 1)
	go func() {
		owner, err := s.own(context.Background())
		if err == nil {
			err = owner.Release()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("two have the name, or it was not waited for: %v", err)
	case <-time.After(5 * ownPoll):
	}
	if err := other.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the name of a server that has died: %v", err)
	}
}
