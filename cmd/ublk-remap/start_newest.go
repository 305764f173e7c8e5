package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/host/set"
)

// newestWait is how long a start waits for the answer whether its disk is an older copy. The other
// process has a shorter limit of its own.
const newestWait = 20 * time.Second

// refuseOlder refuses a disk that is an older copy of another disk of this machine.
//
// Another process reads the other disks: a read from a disk that hangs cannot be interrupted, and
// would keep this process, or a server, from ending. If no answer comes in time the disk is started
// anyway, because the disk that hangs may have nothing to do with it.
func (a *app) refuseOlder(ctx context.Context, t *handoff) error {
	env, err := t.env()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, "start", "--look-for-newer", "--", t.What)
	cmd.Env, cmd.ExtraFiles = env, []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // this may take long; the answer comes through the pipe
	if err := r.SetReadDeadline(time.Now().Add(newestWait)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })()
	text, err := io.ReadAll(io.LimitReader(r, maxReport))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var rep report
	if err != nil || json.Unmarshal(text, &rep) != nil {
		a.log.Warn().Str("backing", t.Backing).Msg("whether another disk is a newer copy of this " +
			"one could not be found out")
		return nil
	}
	if rep.Error != "" {
		return &exit.Error{Code: rep.Code, Text: rep.Error}
	}
	return nil
}

// lookForNewer runs in the other process.
func lookForNewer(ctx context.Context, what string) error {
	parent := newReport()
	t, err := receiveHandoff(what)
	if err == nil && t != nil {
		err = set.CheckNewest(ctx, t.Backing, t.Set)
	}
	if err == nil {
		parent.send(report{})
	}
	parent.failed(err)
	return err
}
