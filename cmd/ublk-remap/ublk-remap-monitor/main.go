// Command ublk-remap-monitor carries out those verbs of ublk-remap that need large libraries:
// metrics for Prometheus, and what is drawn in a terminal. ublk-remap replaces itself by this
// program; nobody calls it by name. Package companion declares the verbs, and says why there are
// two programs. Each verb is one file of this package.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/ublk"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The first signal asks for an orderly end. The second one ends the process.
	context.AfterFunc(ctx, cancel)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	cancel()
	os.Exit(code)
}

// app is what all verbs share.
type app struct {
	out, err  io.Writer
	logLevel  string
	logFormat string
	log       zerolog.Logger
	verdicts  *verdicts
}

// run is the whole program, also for tests. It returns the exit code.
func run(ctx context.Context, args []string, out, err io.Writer) int {
	a := &app{out: out, err: err, verdicts: newVerdicts()}
	root := newRoot(a)
	root.SetArgs(args)
	cmd, failure := root.ExecuteContextC(ctx)
	if failure != nil {
		verb := strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
		_, _ = fmt.Fprintf(a.err, "ublk-remap: %s\n", exit.LineOf(verb, failure))
	}
	return exit.Code(failure)
}

// newRoot has the name of the first program, so that help and errors name what users call.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "ublk-remap", SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			a.log, err = logging.New(a.err, a.logLevel, a.logFormat)
			return err
		},
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: %s is a part of ublk-remap, which runs it; call ublk-remap",
				exit.ErrUsage, companion.Name)
		},
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	// These are the flags of all verbs of ublk-remap.
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "info", "")
	root.PersistentFlags().StringVar(&a.logFormat, "log-format", "console", "")
	root.PersistentFlags().Bool("no-progress", false, "") // nothing here takes long
	root.AddCommand(monitorCommand(a), alertsCommand(a), topCommand(a))
	return root
}

// statuses returns the status of all devices of this host, as far as they can be listed.
func (a *app) statuses(ctx context.Context) ([]*control.Status, error) {
	h := host.Host{
		BadRecords: func(err error) {
			a.log.Warn().Err(err).Msg("some runtime records are of no use")
		},
	}
	all, err := h.Status(ctx)
	// Where the driver may not be asked, those with records are all that can be seen.
	if forbidden := (*ublk.RingForbiddenError)(nil); errors.As(err, &forbidden) {
		a.log.Debug().Err(err).Msg("only devices with records are seen")
		err = nil
	}
	return all, err
}
