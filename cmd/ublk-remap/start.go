package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/cmd/ublk-remap/internal/server"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

type startOptions struct {
	spares     []string
	id         int64
	queues     int
	depth      int
	maxIO      string
	zeroCopy   string
	batchIO    string
	poll       time.Duration
	hugePages  bool
	foreground bool
	detached   bool
	newer      bool // only look for newer copies
	takeOver   int
	kill       bool
	claim      string
	retries    int
	maxBad     int
	isolate    time.Duration
	failFast   time.Duration
	resource   time.Duration
	budget     uint64
	rate       uint64
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
		Short: "Serve a disk as /dev/ublkbN; take over the device of a server that died",
		Long: `Serve a prepared disk. The device's path is printed once it is live; the server then
runs on by itself, or with --foreground until SIGTERM or SIGINT.

If an earlier server of the disk died, its device is taken over: it keeps its number,
queues and features, and what was under way goes on.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return start(cmd.Context(), a,
				args[0], o)
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
	f.DurationVar(&o.poll, "poll", 0, "look for completions for up to so long, such as 50us, "+
		"before a queue sleeps; takes CPU time")
	f.BoolVar(&o.hugePages, "huge-pages", false, "huge pages for the buffers; without zero copy "+
		"they take queues × depth × max-io of memory from the start")
	f.BoolVar(&o.foreground, "foreground", false, "stay in the foreground, for supervisors")
	f.BoolVar(&o.detached, "detached", false, "")
	f.BoolVar(&o.newer, "look-for-newer", false, "")
	f.IntVar(&o.takeOver, "take-over", 0, "")
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

// maxPoll bounds --poll. A sleep costs microseconds: to look for longer than this takes CPU time
// and gains nothing.
const maxPoll = 10 * time.Millisecond

// logWait is how long a server that ends waits for its last lines to be written.
const logWait = 2 * time.Second

// ownFlags are what the program gives to the processes that it starts: the device
// is to be served by a process of its own, it is only to be compared with others,
// and the server to take it over from.
var ownFlags = []string{"detached", "look-for-newer", "take-over", "kill", "claim"}

func start(ctx context.Context, a *app, what string, o startOptions) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	// A terminal that hangs up, and a reader of what is printed that goes away,
	// are no reason to leave a disk without its server.
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

// askedByEach makes each SIGINT and SIGTERM ask a server once more to stop, however impatient
// whoever sends them is.
func askedByEach() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	return signals
}

// findToStart decides which disk is meant, and whether it can be started. The processes that
// are started for it are told.
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
	// What a device that is there may go on with is for its server to say, which knows its record.
	if b.Newest || host.Active(b.Superblock.Name) {
		return b, nil
	}
	return b, a.refuseOlder(ctx, tell(what, b))
}

// launchServer starts a server of its own session, and prints the device when that is live.
func (a *app) launchServer(ctx context.Context, what string, b *host.Backing) error {
	a.warnOfEndMarks(ctx, b)
	env, err := tell(what, b).env()
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

// serveInForeground is the server, in this process.
func (a *app) serveInForeground(ctx context.Context, b *host.Backing, cfg server.Config) error {
	// Whoever reads this may be waiting for the device.
	lines, err := logging.Foreground(a.err, a.logFormat)
	if err != nil {
		return err
	}
	defer lines.Close(logWait)
	if cfg.Log, err = logging.New(lines, a.logLevel, a.logFormat); err != nil {
		return err
	}
	id := set.IdentityOf(b.Superblock)
	cfg.Backing, cfg.Known = b.Path, &id
	cfg.Opened = func() { leaveMounts(cfg.Log) }
	cfg.Progress = func(what string) {
		cfg.Log.Warn().Str("backing", cfg.Backing).Msg(what)
		// A supervisor must not take the wait for a failure (sd_notify(3)); it is said
		// again before that is over.
		notify(a.log, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (3*host.SayEvery).Microseconds()))
	}
	cfg.Ready = func(path string) {
		if err := a.printStarted(path, b.Superblock); err != nil {
			a.log.Warn().Err(err).Msg("standard output")
		}
		notify(a.log, daemon.SdNotifyReady)
	}
	cfg.Stopping = func() { notify(a.log, daemon.SdNotifyStopping) }
	return server.Run(ctx, cfg)
}

// warnOfEndMarks says what of the data is found on the backing itself, which the
// log of a server has as well.
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

func (o *startOptions) config() (server.Config, error) {
	cfg := server.Config{
		Spares: o.spares, ID: int(o.id), Queues: o.queues, Depth: o.depth, Poll: o.poll,
		HugePages: o.hugePages, Predecessor: o.takeOver, Kill: o.kill, Claim: o.claim,
		Policy: remap.Policy{
			Retries: o.retries, MaxBad: o.maxBad, IsolateFor: o.isolate, FailFast: o.failFast,
			ResourceFor: o.resource, Burst: o.budget, PerSecond: o.rate,
		},
	}
	if o.failFast == 0 {
		cfg.Policy.FailFast = -1 // zero means the default there
	}
	bad := func(flag string, v any, want string) error {
		return fmt.Errorf("--%s %v: %w: want %s", flag, v, exit.ErrUsage, want)
	}
	max, err := size.Parse(o.maxIO)
	if err != nil {
		return cfg, fmt.Errorf("--max-io %w", err)
	}
	n, exact := max.Exact()
	switch {
	case !exact || n < 64<<10 || n > 1<<20 || n&(n-1) != 0:
		return cfg, bad("max-io", o.maxIO, "a power of two from 64KiB to 1MiB")
	case o.id < ublk.AnyID || o.id > control.MaxID:
		return cfg, bad("id", o.id, fmt.Sprintf("0 to %d", control.MaxID))
	case o.queues < 0 || o.queues > 64:
		return cfg, bad("queues", o.queues, "1 to 64")
	case o.depth < 1 || o.depth > 1024:
		return cfg, bad("depth", o.depth, "1 to 1024")
	case o.poll < 0 || o.poll > maxPoll:
		return cfg, bad("poll", o.poll, "0 to "+maxPoll.String())
	case o.retries < 1:
		return cfg, bad("retries", o.retries, "1 or more")
	case o.maxBad < 1:
		return cfg, bad("max-bad", o.maxBad, "1 or more")
	case o.isolate <= 0:
		return cfg, bad("isolate-time", o.isolate, "a time such as 2s")
	case o.failFast < 0:
		return cfg, bad("fail-fast", o.failFast, "a time such as 60s, or 0")
	case o.resource <= 0:
		return cfg, bad("resource-time", o.resource, "a time such as 30s")
	case o.budget == 0:
		return cfg, bad("remap-budget", o.budget, "1 or more")
	case o.rate == 0:
		return cfg, bad("remap-rate", o.rate, "1 or more")
	}
	cfg.MaxIO = int(n)
	for _, f := range []struct {
		flag, value string
		choice      *ublk.Choice
	}{{"zero-copy", o.zeroCopy, &cfg.ZeroCopy}, {"batch-io", o.batchIO, &cfg.BatchIO}} {
		var known bool
		if *f.choice, known = choices[f.value]; !known {
			return cfg, bad(f.flag, f.value, "auto, on or off")
		}
	}
	if cfg.BatchIO == ublk.Require && o.depth < 2 {
		return cfg, bad("depth", o.depth, "2 or more with --batch-io=on")
	}
	return cfg, nil
}

// choices are the values of flags about what the kernel may lack.
var choices = map[string]ublk.Choice{"auto": ublk.Auto, "on": ublk.Require, "off": ublk.Never}

// serveDetached is the server's process. What becomes of the start goes to the
// parent, all else to the log file, once the name is this server's own: until then the
// log is that of the server that has it.
func serveDetached(ctx context.Context, a *app, what string, cfg server.Config) error {
	parent := newReport()
	var log detachedLog
	defer log.close()
	err := func() error {
		if err := setBacking(ctx, what, &cfg); err != nil {
			return err
		}
		cfg.Log = zerolog.Nop()
		cfg.Owned = func(name string) (zerolog.Logger, error) { return log.open(a, name) }
		cfg.Opened = func() { leaveMounts(log.log) }
		cfg.Progress = parent.waiting
		var left time.Time
		cfg.Leaving = func() { left = time.Now() }
		cfg.Ready = func(device string) {
			live := report{Device: device, PID: os.Getpid()}
			if !left.IsZero() {
				live.Paused = time.Since(left)
			}
			parent.send(live)
		}
		err := server.Run(ctx, cfg)
		if err != nil {
			log.log.Error().Err(err).Msg("the server ends")
		}
		return err
	}()
	parent.failed(err)
	return err
}

// setBacking takes what this process was told of its disk. One that upgrade has started was told
// nothing: it is started by the path of the disk.
func setBacking(ctx context.Context, what string, cfg *server.Config) error {
	t, err := heard(what)
	switch {
	case err != nil:
		return err
	case t != nil:
		cfg.Backing, cfg.Known = t.Backing, &t.Set
		return nil
	}
	b, err := host.FindBacking(ctx, what)
	if err != nil {
		return err
	}
	id := set.IdentityOf(b.Superblock)
	cfg.Backing, cfg.Known = b.Path, &id
	return nil
}

// detachedLog is the log file of a detached server.
type detachedLog struct {
	log   zerolog.Logger // of no use before open
	file  *logging.File
	lines *logging.Async
}

func (d *detachedLog) open(a *app, name string) (zerolog.Logger, error) {
	fresh := func() (*os.File, error) { return control.OpenLog(name) }
	path := control.LogPath(name)
	var err error
	if d.file, err = logging.OpenFile(path, control.OldLog(path), fresh); err != nil {
		return d.log, err
	}
	if err := crashTo(fresh); err != nil {
		return d.log, err
	}
	d.lines = logging.Detached(d.file)
	log, err := logging.New(d.lines, a.logLevel, "json")
	if err == nil {
		d.log = log.With().Str("name", name).Int("pid", os.Getpid()).Logger()
	}
	return d.log, err
}

func (d *detachedLog) close() {
	if d.lines != nil {
		d.lines.Close(logWait)
	}
	if d.file != nil {
		_ = d.file.Close()
	}
}

// crashTo makes the runtime's last words, should this process crash, go to the
// end of a file: a detached server has no standard error that anybody reads.
func crashTo(open func() (*os.File, error)) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close() // the runtime has a descriptor of its own
	return debug.SetCrashOutput(f, debug.CrashOptions{})
}

// printStarted tells that a device is live. If nobody can be told so on
// standard output the error says it: the device stays.
func (a *app) printStarted(path string, sb *metadata.Superblock) error {
	var err error
	if a.json {
		err = a.printJSON(started{Device: path, Name: sb.Name, UUID: sb.UUID.String()})
	} else {
		_, err = fmt.Fprintln(a.out, path)
	}
	if err != nil {
		return fmt.Errorf("%s is live as %q, but that could not be printed: %w; it stays; to end it: %s", path, sb.Name, err, shell.Command("stop", sb.Name))
	}
	return nil
}

func notify(log zerolog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn().Err(err).Msg("cannot tell the service manager")
	}
}

// driverWait is how long the control device may take to appear once the module
// is there.
const driverWait = 5 * time.Second

// loadDriver makes sure that the kernel's driver is there.
func loadDriver(ctx context.Context, log zerolog.Logger) error {
	if _, err := os.Stat(ublk.ControlPath); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := modprobe(ctx, "ublk_drv"); err != nil {
		return fmt.Errorf("%w (%w)", ublk.ErrNoDriver, err)
	}
	log.Info().Msg("loaded ublk_drv")
	for deadline := time.Now().Add(driverWait); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ublk.ControlPath); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: the module is loaded but %s does not appear", ublk.ErrNoDriver,
				ublk.ControlPath)
		}
	}
}
