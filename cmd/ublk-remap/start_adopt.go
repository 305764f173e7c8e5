package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"

	"ublkremap/internal/control"
	"ublkremap/internal/server"
	"ublkremap/metadata"
)

// This file is about a server that was started before its supervisor: the server of the root file
// system, which the initramfs has started. start --foreground --adopt replaces it as upgrade does.
// The new server is the process that the supervisor has started.

// predecessor is a living server that is to be replaced.
type predecessor struct {
	record  *control.Record
	program *os.File // stays open, so that it can be started again
	args    []string // for starting it again
	token   string   // of the request to leave
}

// predecessorOf returns the living server of a set, and makes cfg replace it. It returns nil if
// there is none, and an error if another supervisor has it.
func predecessorOf(sb *metadata.Superblock, cfg *server.Config) (*predecessor, error) {
	r, err := control.ReadRecord(sb.Name)
	if err != nil || r.UUID != sb.UUID.String() || !control.OwnedBy(r.Name, r.PID) {
		return nil, nil // if something is wrong, the start reports it
	}
	p := &predecessor{record: r}
	if p.args, _, err = serverArgs(r, reloads(r.PID)); err != nil {
		return nil, err
	}
	if p.program, err = os.Open(fmt.Sprintf("/proc/%d/exe", r.PID)); err != nil {
		return nil, fmt.Errorf("the program of process %d: %w", r.PID, err)
	}
	p.token = rand.Text()
	cfg.Predecessor, cfg.Token = r.PID, p.token
	return p, nil
}

func (p *predecessor) close() {
	if p != nil {
		_ = p.program.Close()
	}
}

// stillServing is logged by a server that did not replace another one.
const stillServing = "this server did not start; the one before it still serves the device"

// stillServed is called when the start of a unit has failed. If a server of the set lives in the
// same unit, because it was asked to stop and refused, the supervisor is told to watch that server,
// and the unit counts as started. Otherwise why is returned.
func (a *app) stillServed(name string, why error) error {
	r, err := control.ReadRecord(name)
	if err != nil || r.PID == os.Getpid() || !control.OwnedBy(r.Name, r.PID) || !reloads(r.PID) {
		return why
	}
	a.log.Error().Err(why).Msg(stillServing)
	notify(a.log, fmt.Sprintf("MAINPID=%d\n%s", r.PID, daemon.SdNotifyReady))
	return nil
}

// notAdopted makes sure that there is a server if this process could not replace the old one. The
// supervisor is told to watch that server.
func (a *app) notAdopted(ctx context.Context, old *predecessor, why error) error {
	why = a.bringBack(ctx, old.record, old.program, old.args, old.token, why)
	now, err := control.ReadRecord(old.record.Name)
	if err != nil || !control.OwnedBy(now.Name, now.PID) {
		return why
	}
	a.log.Error().Err(why).Msg(stillServing)
	if _, err := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d\n%s", now.PID,
		daemon.SdNotifyReady)); err != nil {
		return why
	}
	return nil
}

// wasRootStorage reports whether the last server of a set was started for the root file system.
func wasRootStorage(sb *metadata.Superblock) bool {
	r, err := control.ReadRecord(sb.Name)
	return err == nil && r.RootStorage && r.UUID == sb.UUID.String()
}
