package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

type startOptions struct {
	spares      []string
	id          int64
	queues      int
	depth       int
	maxIO       string
	zeroCopy    string
	batchIO     string
	poll        time.Duration
	hugePages   bool
	foreground  bool
	detached    bool
	newer       bool // only look for newer copies of the disk
	predecessor int
	kill        bool
	claim       string
	retries     int
	maxBad      int
	isolate     time.Duration
	failFast    time.Duration
	resource    time.Duration
	recovery    string
	budget      uint64
	rate        uint64
}

// started is what start --json prints.
type started struct {
	Device string `json:"device"`
	Name   string `json:"name"`
	UUID   string `json:"uuid"`
}

func startCommand(a *app) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "start BACKING|NAME",
		Short: "Serve a disk as /dev/ublkbN; recover the device of a server that died",
		Long: `Serve a prepared disk. The device's path is printed once it is live. The server
then runs on by itself, or with --foreground until SIGTERM or SIGINT.

If an earlier server of the disk died, its device is recovered: it keeps its
number, queues and features, and requests that were under way go on.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return start(cmd.Context(), a, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.spares, "spare-device", nil, "path of a spare device; those not named "+
		"are looked for")
	f.Int64Var(&o.id, "id", ublk.AnyID, "number N of /dev/ublkbN (default: the next that is free)")
	f.IntVar(&o.queues, "queues", 0, "hardware queues (default: one for each CPU, at most 4)")
	f.IntVar(&o.depth, "depth", ublk.DefaultDepth, "requests in flight per queue")
	f.StringVar(&o.maxIO, "max-io", "512KiB", "largest request")
	f.StringVar(&o.zeroCopy, "zero-copy", "auto", "leave the data in the kernel: auto, on or "+
		"off; on needs Linux 6.16")
	f.StringVar(&o.batchIO, "batch-io", "auto", "exchange many requests with one command: auto, "+
		"on or off; on needs Linux 7.0")
	f.DurationVar(&o.poll, "poll", 0, "how long a queue looks for completions before it sleeps, "+
		"such as 50us; takes CPU time")
	f.BoolVar(&o.hugePages, "huge-pages", false, "huge pages for the buffers; without zero copy "+
		"they take queues × depth × max-io of memory from the start")
	f.BoolVar(&o.foreground, "foreground", false, "stay in the foreground, for supervisors")
	f.BoolVar(&o.detached, "detached", false, "")
	f.BoolVar(&o.newer, "look-for-newer", false, "")
	f.IntVar(&o.predecessor, "take-over", 0, "")
	f.BoolVar(&o.kill, "kill", false, "")
	f.StringVar(&o.claim, "claim", "", "")
	f.IntVar(&o.retries, "retries", remap.DefaultRetries,
		"how often a bad block is tried again before it is remapped")
	f.IntVar(&o.maxBad, "max-bad", remap.DefaultMaxBad, "bad blocks that one request finds one "+
		"by one, before the search gets coarser")
	f.DurationVar(&o.isolate, "isolate-time", remap.DefaultIsolateFor,
		"time that one request may spend on finding its bad blocks")
	f.DurationVar(&o.failFast, "fail-fast", remap.DefaultFailFast,
		"how long a pending block that failed to read is not read again, but answered with an "+
			"error; 0: never")
	f.DurationVar(&o.resource, "resource-time", remap.DefaultResourceFor,
		"how long I/O that fails for want of memory is tried again")
	f.StringVar(&o.recovery, "error-recovery", "7s", "after how long the drive gives up a bad "+
		"sector (SCT ERC, by smartctl), or keep: as it is")
	f.Uint64Var(&o.budget, "remap-budget", remap.DefaultBurst,
		"units that may be remapped at once before the breaker trips")
	f.Uint64Var(&o.rate, "remap-rate", remap.DefaultPerSecond,
		"units a second that the budget grows by")
	a.jsonFlag(cmd)
	for _, own := range ownFlags {
		if err := f.MarkHidden(own); err != nil {
			panic(err)
		}
	}
	return cmd
}

// maxPoll bounds --poll. A sleep costs microseconds. Polling for longer than this takes CPU time
// and gains nothing.
const maxPoll = 10 * time.Millisecond

// ownFlags are for processes that this program starts itself: a server in a session of its own, the
// search for newer copies, and a server that takes the place of a living one.
var ownFlags = []string{"detached", "look-for-newer", "take-over", "kill", "claim"}

func start(ctx context.Context, a *app, what string, o startOptions) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	// A terminal that hangs up must not leave a disk without its server. A reader of the output
	// that goes away must not do so either.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	cfg.Version = programVersion()
	switch {
	case o.detached:
		cfg.Signals = askedByEach()
		return serveDetached(ctx, a, what, cfg)
	case o.newer:
		return lookForNewer(ctx, what)
	case o.foreground:
		cfg.Signals = askedByEach()
	}
	b, err := a.findToStart(ctx, what)
	if err != nil {
		return err
	}
	if o.foreground {
		return a.serveInForeground(ctx, b, cfg)
	}
	return a.launchServer(ctx, what, b)
}

// askedByEach makes each SIGINT and SIGTERM ask the server whether it can stop. Several signals do
// not kill the server.
func askedByEach() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	return signals
}

// findToStart decides which disk is meant, and whether it can be started. The processes that are
// started for the disk are told the result.
func (a *app) findToStart(ctx context.Context, what string) (*host.Backing, error) {
	b, err := host.FindBacking(ctx, what)
	if err != nil {
		return nil, err
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

// launchServer starts a server in a session of its own, and prints the device when that is live.
func (a *app) launchServer(ctx context.Context, what string, b *host.Backing) error {
	a.warnOfEndMarks(ctx, b)
	env, err := handoffOf(what, b).env()
	if err != nil {
		return err
	}
	live, err := launch(ctx, self, withFlag(os.Args[1:], "--detached"),
		launchOptions{withCaller: true, env: env, waiting: func(what string) {
			a.tell("ublk-remap: %s: %s\n", b.Path, exit.Printable(what))
		}})
	if err != nil {
		return err
	}
	return a.printStarted(live.Device, b.Superblock)
}

// warnOfEndMarks says which of the data can be found on the backing itself. The log of a server has
// that as well.
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
