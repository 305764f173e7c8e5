package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

// startRun is one run of start.
type startRun struct {
	*startOptions
	flags       *pflag.FlagSet // that were given
	noConfig    bool
	foreground  bool
	adopt       bool
	rootStorage bool
	detached    bool
	newer       bool // only look for newer copies of the disk
	predecessor int
	kill        bool
	token       string
	// begun ends the turn of this process, so that other starts can begin.
	begun func()
	// warnings are for the log of the server.
	warnings []string
}

// started is the JSON of start.
type started struct {
	Device string `json:"device"`
	Name   string `json:"name"`
	UUID   string `json:"uuid"`
}

func startCommand(a *app) *cobra.Command {
	r := startRun{startOptions: newStartOptions(a.logFlags)}
	var all bool
	cmd := &cobra.Command{
		Use:   "start BACKING|NAME",
		Short: "Serve a disk as /dev/ublkbN, or go on where a server died",
		Long: `Serve a prepared disk. The device's path is printed once it is live. The server
then runs on by itself, or with --foreground until SIGTERM or SIGINT.

What is said without a slash is a set's name or UUID before it is a file of this
directory. Flags that are not given are what /etc/ublk-remap/NAME.toml says, if
the set has that file; see: ublk-remap config show NAME.

If an earlier server of the disk died, its device is recovered: it keeps its
number, queues and features, and requests that were under way go on.

--all starts each set that is enabled or has a file and does not run.`,
		Args: allOr(&all, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return a.startAll(cmd)
			}
			err := start(cmd.Context(), a, args[0], &r)
			if err != nil && r.adopt {
				err = a.stillServed(args[0], err)
			}
			if err != nil && r.foreground && underManager() {
				_, recordErr := control.ReadRecord(args[0])
				err = exit.Supervised(err, recordErr == nil)
			}
			return err
		},
	}
	f := cmd.Flags()
	r.flags = f
	addFlags(f, r.own(a))
	f.BoolVar(&r.noConfig, "no-config", false, "leave the set's file in /etc/ublk-remap alone")
	f.BoolVar(&r.foreground, "foreground", false, "stay in the foreground, for supervisors")
	f.BoolVar(&r.adopt, "adopt", false, "with --foreground: replace a server of the disk that "+
		"runs by itself, such as that of the initramfs")
	f.BoolVar(&r.rootStorage, "root-storage", false, "the root file system is on the device, or "+
		"will be: run from memory, and be left alone by systemd until the machine is off")
	f.BoolVar(&all, "all", false, "start all sets that are enabled or have a file")
	f.BoolVar(&r.detached, "detached", false, "")
	f.BoolVar(&r.newer, "look-for-newer", false, "")
	f.IntVar(&r.predecessor, "take-over", 0, "")
	f.BoolVar(&r.kill, "kill", false, "")
	f.StringVar(&r.token, "claim", "", "")
	a.jsonFlag(cmd)
	for _, own := range ownFlags {
		if err := f.MarkHidden(own); err != nil {
			panic(err)
		}
	}
	return cmd
}

// ownFlags are for processes that this program starts itself: a server in a session of its own, the
// search for newer copies, and a server that takes the place of a living one.
var ownFlags = []string{"detached", "look-for-newer", "take-over", "kill", "claim"}

func start(ctx context.Context, a *app, what string, r *startRun) error {
	if _, err := r.startOptions.config(); err != nil {
		return err
	}
	// A terminal that hangs up must not leave a disk without its server. A reader of the output
	// that goes away must not do so either.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	switch {
	case r.detached:
		return serveDetached(ctx, a, what, r)
	case r.newer:
		return lookForNewer(ctx, what)
	}
	r.begun = a.turnToStart(ctx, what)
	defer r.begun()
	b, err := a.findToStart(ctx, what, r)
	if err != nil {
		return err
	}
	args := os.Args[1:]
	if !r.rootStorage && wasRootStorage(b.Superblock) {
		args = withFlag(args, "--root-storage")
		if r.foreground {
			return fmt.Errorf("start again with --root-storage: %w", unix.Exec(self,
				append([]string{programName}, args...), os.Environ()))
		}
	}
	if r.foreground {
		return a.serveInForeground(ctx, b, r)
	}
	return a.launchServer(ctx, what, b, args)
}

// askedByEach makes each SIGINT and SIGTERM a request to stop. The server refuses while its device
// is in use. Further signals do not kill it.
func askedByEach() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	return signals
}

// findToStart decides which disk is meant, and whether it can be started. The processes that are
// started for the disk get the result.
func (a *app) findToStart(ctx context.Context, what string, r *startRun) (*host.Backing, error) {
	b, err := r.find(ctx, what)
	if err != nil {
		return nil, err
	}
	for _, w := range r.warnings {
		a.log.Warn().Msg(w)
	}
	if err := b.Superblock.Unfinished(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := loadDriver(ctx, a.log); err != nil {
		return nil, err
	}
	// If there is a device, its record tells its server which disk it may continue with.
	if b.Newest || host.Active(b.Superblock.Name) {
		return b, nil
	}
	return b, a.refuseOlder(ctx, handoffOf(what, b))
}

// launchServer starts a server in a session of its own, with the arguments of this process, and
// prints the device when that is live.
func (a *app) launchServer(ctx context.Context, what string, b *host.Backing,
	args []string) error {
	a.warnOfEndMarks(ctx, b)
	leaveManager()
	env, err := handoffOf(what, b).env()
	if err != nil {
		return err
	}
	bar := a.progress("starting " + what)
	live, err := launch(ctx, self, withFlag(args, "--detached"),
		launchOptions{withCaller: true, env: env, waiting: func(what string) {
			a.tell("ublk-remap: %s: %s\n", b.Path, readable.Text(what))
		}})
	bar.End()
	if err != nil {
		return err
	}
	return a.printStarted(live.Device, b.Superblock)
}

// warnOfEndMarks warns of data that is visible at the end of the backing itself. The log of a
// server has the same warning.
func (a *app) warnOfEndMarks(ctx context.Context, b *host.Backing) {
	d, err := blockdev.Open(ctx, b.Path, blockdev.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return // the server says why
	}
	defer d.Close()
	if found := set.EndMarks(d, b.Superblock); found != "" {
		a.log.Warn().Str("device", b.Path).Str("do", set.EndMarksDo).Msg(found)
	}
}

// printStarted prints the device that is live. If printing fails the error says that the device is
// live, and the device stays.
func (a *app) printStarted(path string, sb *metadata.Superblock) error {
	var err error
	if a.json {
		err = a.printJSON(started{Device: path, Name: sb.Name, UUID: sb.UUID.String()})
	} else {
		_, err = fmt.Fprintln(a.out, path)
	}
	if err != nil {
		return fmt.Errorf("%s is live as %q, but that could not be printed: %w; it stays; to end "+
			"it: %s", path, sb.Name, err, shell.Command("stop", sb.Name))
	}
	return nil
}
