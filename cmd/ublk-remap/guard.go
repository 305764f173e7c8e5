package main

import (
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/cmd/ublk-remap/internal/mounts"
	"ublkremap/internal/control"
	"ublkremap/internal/server"
)

// guardCommand is a process that starts a server of the root file system if the server dies and no
// other process starts one (server.Guard). The server starts the guard.
func guardCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "guard NAME PID COMMAND…",
		Short:  "Start the server of the root file system again if it dies",
		Hidden: true,
		Args:   arguments(3, anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.guard(cmd.Context(), args[0], args[1], args[2:])
		},
	}
}

// guard watches over a server. words is the server's command line. The server can be dead already.
// Nobody reads the guard's standard error, so it logs to the kernel's log.
func (a *app) guard(ctx context.Context, name, pidText string, words []string) error {
	pid, err := strconv.Atoi(pidText)
	if err != nil {
		return err
	}
	mounts.NameProcess(programName)
	lines := logging.Detached(io.Discard)
	defer lines.Close(logWait)
	log, err := logging.New(lines, "warn", "json")
	if err != nil {
		return err
	}
	err = watchOver(ctx, log, name, pid, words)
	if err != nil {
		log.Error().Err(err).Str("name", name).Msg("the server has no guard any more")
	}
	return err
}

func watchOver(ctx context.Context, log zerolog.Logger, name string, pid int,
	words []string) error {
	r, err := control.ReadRecord(name)
	if err != nil || r.PID != pid {
		return err // it has ended, or another one has taken its place
	}
	args, err := guardedArgs(words, r)
	if err != nil {
		return err
	}
	return server.Guard(ctx, log, name, pid, func(ctx context.Context) error {
		_, err := launch(ctx, self, args, launchOptions{})
		return err
	})
}

// guardedArgs returns the command line for the next server if that of a record, which has this
// command line, dies. It includes the options from the file of the set, because the file cannot be
// read then.
func guardedArgs(words []string, r *control.Record) ([]string, error) {
	args, _, err := successorArgs(words, r, true)
	for _, name := range slices.Sorted(maps.Keys(r.Options)) {
		if !given(args, name) {
			args = withFlag(args, "--"+name+"="+r.Options[name])
		}
	}
	return args, err
}

// startGuard starts the guard of this server, if it serves the root file system.
func startGuard(log zerolog.Logger, cfg *server.Config) {
	if !cfg.RootStorage {
		return
	}
	args := []string{"guard", "--", cfg.Known.Name, strconv.Itoa(os.Getpid())}
	cmd := ownProcess(append(args, os.Args[1:]...)...)
	if err := cmd.Start(); err != nil {
		log.Warn().Err(err).Str("do", "if this server dies, systemd has to read the program from "+
			"the device that waits for it").Msg("the server has no guard")
		return
	}
	go func() { _ = cmd.Wait() }()
}

// ownProcess runs this program as a further process of a server. It does not get the server's
// signals, and systemd-shutdown spares it as it spares the server.
func ownProcess(args ...string) *exec.Cmd {
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "@" + programName
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}
