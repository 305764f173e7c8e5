// Command ublk-remap puts a virtual block device in front of a disk and keeps it working when the
// disk gets bad sectors.
//
// It is one binary with a verb for each task: `create` prepares a disk, `start` serves it as
// /dev/ublkbN, `status` shows its state, `stop` ends it. docs/COMMAND.md describes all verbs, their
// JSON and the exit codes. Each verb is one file of this package that reads from top to bottom:
// flags, call, print. The verbs share what is in root.go and output.go. Package host finds devices
// and disks, and internal/server serves them.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

func main() {
	ownMounts(os.Args[1:])
	unlimit()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The first signal asks for an orderly end. The second one ends the process, because something
	// may be waiting for a disk that does not answer. Servers handle all signals like the first.
	context.AfterFunc(ctx, cancel)
	code := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	cancel()
	os.Exit(code)
}

// run is the whole command, also for tests. It returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	a := &app{stdio: std, args: args, ctx: ctx}
	root := newRoot(a)
	root.SetArgs(args)
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		addCompletions(a, root)
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && (!a.parsed || errors.Is(err, exit.ErrUsage)) && !errors.Is(err, errSilent) {
		// An error before a verb runs is an error of the command line.
		err = &usageError{err, cmd.CommandPath() + " --help"}
	}
	switch {
	case err == nil:
	case errors.Is(err, errSilent):
	default:
		a.tell("ublk-remap: %s\n", exit.LineOf(strings.TrimPrefix(cmd.CommandPath(),
			root.Name()+" "), err))
	}
	return exit.Code(err)
}
