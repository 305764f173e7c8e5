package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A server that systemd supervises runs in the foreground of its unit. Others must not replace it
// with another server, because the unit would lose track of it. ExecReload= of the unit may do so:
// the server that it leaves is in the unit's control group, and the unit can be told which process
// is the server now.

// underManager reports whether a service manager has started this process and wants to be told of
// its state (sd_notify(3)).
func underManager() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// reloads reports whether this process is the ExecReload= of the unit that the process pid runs in.
func reloads(pid int) bool {
	return underManager() && sameUnit(pid)
}

// sameUnit reports whether the process pid is in this process's control group.
func sameUnit(pid int) bool {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Equal(own, its)
}

// leaveManager makes this process and its children forget its service manager: it is not that of
// the server that is started. A server that ends must not say that the caller's service ends.
func leaveManager() {
	_ = os.Unsetenv("NOTIFY_SOCKET")
}

// tellMainPID tells the unit which process is its server now, if this process is its ExecReload=.
func (a *app) tellMainPID(pid int) {
	if _, err := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", pid)); err != nil {
		a.log.Warn().Err(err).Msg("cannot tell the service manager which process serves now")
	}
}
