package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ublkremap/internal/control"
)

// own makes the set's name this server's own. While the server that has it dies
// that is waited for, since whoever has killed it and starts the next one means
// to: it gives back its memory first, and what it has in flight has to end, which
// takes as long as the disk does. A server that lives keeps the name: control.ErrOwned.
//
// Nothing is read or written meanwhile, so that it makes no difference to the
// data who waits and for how long.
func (s *server) own(ctx context.Context) (*control.Owner, error) {
	w := s.waiter()
	for pause := ownPoll; ; pause = min(2*pause, deadPoll) {
		// Before the try: one that is gone since has let go.
		r, readErr := control.ReadRecord(s.name)
		dies := readErr == nil && Died(r)
		owner, err := control.Own(s.name)
		if !errors.Is(err, control.ErrOwned) || !dies {
			return owner, err
		}
		w.Say(func() string { return LastIO(r) })
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

const (
	pfExiting = 0x4          // PF_EXITING, include/linux/sched.h
	sigkill   = 1 << (9 - 1) // in a mask of signals
)

// dying reports whether a process ends: one of its threads has died with nobody
// to wait for it yet, is about to, or has a SIGKILL waiting for it. Also when there
// is no such process.
func dying(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil || len(tasks) == 0 {
		return true
	}
	for _, dir := range tasks {
		// proc_pid_stat(5): after the name in parentheses come state (3), …, flags (9).
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // a thread that has just ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 7 {
			continue
		}
		flags, err := strconv.ParseUint(fields[9-3], 10, 64)
		if fields[0] == "Z" || fields[0] == "X" || err == nil && flags&pfExiting != 0 {
			return true
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, mask, _ := strings.Cut(line, ":")
			if name != "SigPnd" && name != "ShdPnd" {
				continue
			}
			if pending, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err == nil &&
				pending&sigkill != 0 {
				return true
			}
		}
	}
	return false
}
