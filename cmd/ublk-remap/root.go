package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/cmd/ublk-remap/internal/manual"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/config"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
)

// stdio is where the command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// app is what all verbs share.
type app struct {
	stdio
	args      []string        // of the command line, without the program
	ctx       context.Context // ends by SIGINT and SIGTERM
	parsed    bool            // the command line made sense
	json      bool
	logLevel  string
	logFormat string
	logFlags  []config.Option // the two of them
	log       zerolog.Logger
	far       *progress.Out // how far long operations are
}

// host returns this machine as all verbs see it.
func (a *app) host() *host.Host {
	return &host.Host{
		BadRecords: func(err error) {
			a.log.Warn().Err(err).Msg("some runtime records are of no use")
		},
		Waiting: func(device, what string) {
			a.tell("ublk-remap: %s: %s\n", device, readable.Text(what))
		},
	}
}

// errSilent is wrapped by errors that were printed already.
var errSilent = errors.New("")

func newRoot(a *app) *cobra.Command {
	a.far = progress.NewOut(a.err)
	if a.ctx != nil {
		a.far.Interrupted = a.ctx.Done()
	}
	root := &cobra.Command{
		Use:   "ublk-remap",
		Short: "A block device that keeps working when its disk gets bad sectors",
		Long: `ublk-remap puts a virtual block device, /dev/ublkbN, in front of a disk. Sectors
that the disk can no longer hold are redirected to a spare region and remembered
on the disk itself. A write that was acknowledged is never lost.

Exit codes:
  0  done
  1  failed
  2  the command line makes no sense
  3  refused, to protect data
  4  not found
  5  this kernel or file system lacks something; see doctor
  6  the metadata is damaged`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuseEmpty(cmd.Flags()); err != nil {
				return err
			}
			return a.begin()
		},
		RunE: group,
	}
	root.SetFlagErrorFunc(flagError)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	a.logFlags = logOptions(&a.logLevel, &a.logFormat)
	addFlags(root.PersistentFlags(), a.logFlags)
	root.PersistentFlags().BoolVar(&a.far.Off, "no-progress", false,
		"do not tell on standard error how far a long operation is")
	addVerbs(a, root)
	root.SetHelpCommand(helpCommand())
	addExamples(root)
	manual.SetUsage(root)
	return root
}

// addVerbs adds all verbs.
func addVerbs(a *app, root *cobra.Command) {
	root.AddCommand(
		createCommand(a), releaseCommand(a),
		startCommand(a), stopCommand(a), upgradeCommand(a),
		scanCommand(a), enableCommand(a), disableCommand(a), configCommand(a),
		listCommand(a), statusCommand(a), eventsCommand(a), drillCommand(a),
		healthCommand(a),
		fillCommand(a),
		checkCommand(a), monitorCommand(a), alertsCommand(a), topCommand(a),
		filesCommand(a),
		remapCommand(a), scrubCommand(a), resumeCommand(a),
		importCommand(a), exportCommand(a),
		metadataCommand(a),
		doctorCommand(a), versionCommand(a), manCommand(), completionCommand(),
		// for other programs
		udevCommand(a), belowCommand(a), guardCommand(a), unitEndedCommand(a), writeLimitCommand(),
	)
}

// begin is called before a verb runs, when the command line makes sense.
func (a *app) begin() (err error) {
	if a.log, err = logging.New(a.err, a.logLevel, a.logFormat); err != nil {
		return err
	}
	// A message must not run into the line of progress.
	a.log = a.log.Hook(zerolog.HookFunc(func(*zerolog.Event, zerolog.Level, string) {
		a.far.Clear()
	}))
	a.parsed = true
	return nil
}

// group is the RunE of a verb that has only verbs below it.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: %s has no verb %q", exit.ErrUsage, cmd.CommandPath(), args[0])
	}
	if err := cmd.Help(); err != nil {
		return err
	}
	return fmt.Errorf("%w (%w)", errSilent, exit.ErrUsage)
}

// jsonFlag adds --json to a verb.
func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
}

// dryRunFlag adds --dry-run to a verb.
func dryRunFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "dry-run", false, "say what would be done and change nothing")
}

// yesFlag adds --yes to a verb that asks.
func yesFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "yes", false, "do not ask")
}
