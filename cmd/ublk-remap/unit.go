package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/server"
)

// This file has the functions of this program that only ublk-remap@.service needs.
//
// systemd has no way to refuse the stop of a unit for a reason that shows only during the stop. So
// a stop is carried out as far as possible. ExecStop= asks the server to stop. The server refuses
// while its device is in use. Then systemd sends SIGTERM, which the server refuses as well. Because
// of KillMode= and SendSIGKILL= systemd does no more than that. ExecStopPost= finds that the server
// lives, and makes systemd start the unit again. That cancels the stop, so systemctl fails, and the
// unit stays active. ExecStart= then takes over from the living server (start --adopt).

const (
	// unitWait is how much longer systemd waits after each notice, and unitTell is how often it
	// gets one.
	unitWait = 15 * time.Second
	unitTell = 5 * time.Second
	// unitLimit bounds how long a request to systemd may take.
	unitLimit = 10 * time.Second
	// The pause after a start that fails again and again grows from pauseLeast to pauseMost.
	// RestartSteps= of systemd does that since version 254.
	pauseLeast = 500 * time.Millisecond
	pauseMost  = 10 * time.Second
)

// moreTime asks the service manager to wait so much longer for this process (sd_notify(3)).
func moreTime(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())
}

// extend makes the service manager wait for this process until end is called. It does nothing if
// there is no service manager.
func (a *app) extend() (end func()) {
	notify(a.log, moreTime(unitWait))
	return a.extendLater()
}

// extendLater is extend for a process that has unitTell without it.
func (a *app) extendLater() (end func()) {
	ended := make(chan struct{})
	go a.every(unitTell, moreTime(unitWait), ended)
	return func() { close(ended) }
}

// beat tells the service manager's watchdog that this process works, until end is called.
func (a *app) beat() (end func()) {
	ended := make(chan struct{})
	go a.every(unitTell, daemon.SdNotifyWatchdog, ended)
	return func() { close(ended) }
}

// every sends the same state to the service manager again and again.
func (a *app) every(pause time.Duration, state string, ended <-chan struct{}) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			notify(a.log, state)
		}
	}
}

// supervise makes a server tell the service manager, if there is one, what the manager must know.
func (a *app) supervise(cfg *server.Config) {
	if !underManager() {
		return
	}
	cfg.Alive = func() { notify(a.log, daemon.SdNotifyWatchdog) }
	cfg.Stopping = func() {
		notify(a.log, daemon.SdNotifyStopping)
		a.extend()
	}
}

func notify(log zerolog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn().Err(err).Msg("cannot tell the service manager")
	}
}

// unitEndedCommand is the ExecStopPost= of a unit.
func unitEndedCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "unit-ended UNIT NAME",
		Short:  "Look after a unit whose server has ended, or should have",
		Hidden: true,
		Args:   arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.unitEnded(cmd.Context(), args[0], args[1], unitEnd{
				result: os.Getenv("SERVICE_RESULT"), code: os.Getenv("EXIT_CODE")})
		},
	}
}

// unitEnd is how a unit has ended, in the words of systemd (systemd.exec(5)).
type unitEnd struct {
	result string // of the service
	code   string // of its main process: exited, killed or dumped
}

// unitEnded does what is needed after the end of a unit.
func (a *app) unitEnded(ctx context.Context, unit, name string, how unitEnd) error {
	r, err := control.ReadRecord(name)
	switch {
	case err != nil:
		// No device waits for a server.
		defer a.extend()()
		if err := releaseUnusedDrives(ctx); err != nil {
			a.tell("ublk-remap: %s; try again with: ublk-remap doctor --fix\n", err)
		}
		if how.result == "success" {
			return nil
		}
		return pauseRestart(ctx, unit)
	case !control.OwnedBy(name, r.PID) || !sameUnit(r.PID):
		return a.serverGone(ctx, unit, r, how)
	case how.result == "watchdog":
		a.tell("ublk-remap: %s: its server, process %d, hangs, and is killed; the next one "+
			"recovers the device\n", r.Device, r.PID)
		return killServer(name, r.PID)
	}
	// While the server lives, systemd waits until the end of its time limit, which is short.
	a.tell("ublk-remap: %s: its server, process %d, has not ended and still serves it; the unit "+
		"is started again\n", r.Device, r.PID)
	return withSystemd(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		return startAgain(ctx, conn, unit)
	})
}

// serverGone is for a unit that has left a device without a server. systemd restarts the unit,
// unless somebody has asked it to stop. If the server died before it could obey, that stop
// counts as refused, too.
func (a *app) serverGone(ctx context.Context, unit string, r *control.Record, how unitEnd) error {
	if how.code != "killed" && how.code != "dumped" {
		return nil
	}
	return withSystemd(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		jobs, err := conn.ListJobsContext(ctx)
		if err != nil {
			return fmt.Errorf("the jobs of systemd: %w", err)
		}
		if !slices.ContainsFunc(jobs, func(j dbus.JobStatus) bool {
			return j.Unit == unit && j.JobType == "stop"
		}) {
			return nil
		}
		a.tell("ublk-remap: %s: its server died when it was asked to stop; the unit is started "+
			"again\n", r.Device)
		return startAgain(ctx, conn, unit)
	})
}

// withSystemd calls f with a connection to systemd, and a context that limits the requests of f.
func withSystemd(ctx context.Context, f func(ctx context.Context, conn *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, unitLimit)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	defer conn.Close()
	return f(ctx, conn)
}

// startAgain makes systemd start a unit, which replaces the unit's current job. It does not wait.
func startAgain(ctx context.Context, conn *dbus.Conn, unit string) error {
	if _, err := conn.StartUnitContext(ctx, unit, "replace", nil); err != nil {
		return fmt.Errorf("start %s: %w", unit, err)
	}
	return nil
}

// pauseRestart waits before systemd retries a unit that has failed several times.
func pauseRestart(ctx context.Context, unit string) error {
	var restarts uint32
	err := withSystemd(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		p, err := conn.GetServicePropertyContext(ctx, unit, "NRestarts")
		if err != nil {
			return fmt.Errorf("%s: %w", unit, err)
		}
		restarts, _ = p.Value.Value().(uint32)
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(restartPause(restarts)):
	}
	return nil
}

// restartPause is how long to wait after so many failed starts.
func restartPause(restarts uint32) time.Duration {
	if restarts == 0 {
		return 0
	}
	return min(pauseLeast<<min(restarts-1, 8), pauseMost)
}

// killServer ends a server that does not answer.
func killServer(name string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(fd)
	// From here on fd refers to one process. This checks that this process is the server.
	if !control.OwnedBy(name, pid) {
		return nil
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}
