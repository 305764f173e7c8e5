package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A server that systemd supervises runs in the foreground of its unit. Somebody else may
// not swap it for another: the unit would miss it. ExecReload= of the unit may, since what
// it leaves is in the unit's control group, and the unit can be told which process is the
// server now.

// reloads reports whether this process is ExecReload= of the unit that another one runs in.
func reloads(pid int) bool {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return false
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Equal(own, its)
}

// tellMainPID tells the unit which process its server is now, if this is its ExecReload=.
func (a *app) tellMainPID(pid int) {
	if _, err := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", pid)); err != nil {
		a.log.Warn().Err(err).Msg("cannot tell the service manager which process serves now")
	}
}
