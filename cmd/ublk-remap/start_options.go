package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/server"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// startOptions say how a set is served. Each option is declared once. The declaration makes a flag
// of start and enable, a key of /etc/ublk-remap/NAME.toml, an entry of the manual page, and a row
// of the table in docs/CONFIG.md, which has the same order. A new option needs a field here, an
// entry in one of the functions below, and its effect in config.
type startOptions struct {
	backing   string // keys of the file only
	uuid      string
	spares    []string
	id        int
	queues    int
	depth     int
	maxIO     string
	zeroCopy  string
	batchIO   string
	poll      time.Duration
	hugePages bool
	retries   int
	maxBad    int
	isolate   time.Duration
	failFast  time.Duration
	resource  time.Duration
	recovery  string
	smart     []string
	budget    uint64
	rate      uint64
	logLevel  string
	logFormat string

	all []config.Option // what these fields are
}

// newStartOptions returns options with their defaults. log are the options of the log. nil means
// that these are not connected with flags.
func newStartOptions(log []config.Option) *startOptions {
	o := &startOptions{}
	if log == nil {
		log = logOptions(&o.logLevel, &o.logFormat)
	}
	o.all = slices.Concat(o.whichDisk(), o.deviceOptions(), o.policyOptions(), log)
	return o
}

// maxPoll bounds --poll. A sleep costs microseconds. Polling for longer than this takes CPU time
// and gains nothing.
const maxPoll = 10 * time.Millisecond

// whichDisk are the options that say where the set is.
func (o *startOptions) whichDisk() []config.Option {
	return []config.Option{
		{Name: "backing", NoFlag: true, Path: true, Change: config.Restart,
			Value: config.Parsed(&o.backing, "", "DEVICE", "the path of a block device or a file",
				anyPath),
			Default: "the block device that carries the set", Sample: "/dev/disk/by-id/DISK",
			Help: "path of the disk; a regular file needs it",
			More: "It is refused if it carries another set than NAME. A path that was given to " +
				"`start` counts instead."},
		{Name: "uuid", NoFlag: true, Change: config.Restart,
			Value:   config.Parsed(&o.uuid, "", "UUID", "a UUID", isUUID),
			Default: "any", Sample: "0198b1f2-0000-7000-8000-000000000001",
			Help: "UUID of the set; another set of that name is not started",
			More: "`enable` writes it. `scan` shows it."},
		{Name: "spare-device", Path: true, Change: config.Restart,
			Value:   config.Texts(&o.spares, "DEVICE", pathWanted, anyPath),
			Default: "looked for by their UUID", Sample: "/dev/disk/by-id/SPARE",
			Help: "path of a spare device; those not named are looked for",
			More: "As a flag it is repeated, and replaces what the file has."},
	}
}

// deviceOptions are properties of the device and of its data path.
func (o *startOptions) deviceOptions() []config.Option {
	return []config.Option{
		{Name: "id", Change: config.Restart,
			Value:   config.Int(&o.id, ublk.AnyID, 0, control.MaxID),
			Default: "the next that is free", Sample: "7", Help: "number N of /dev/ublkbN",
			More: "A number that is taken is refused with exit code 3."},
		{Name: "queues", Change: config.Restart, Value: config.Int(&o.queues, 0, 1, 64),
			Default: "one for each CPU, at most 4", Sample: "4", Help: "hardware queues",
			More: "The kernel may give fewer."},
		{Name: "depth", Change: config.Restart,
			Value: config.Int(&o.depth, ublk.DefaultDepth, 1, 1024),
			Help:  "requests in flight per queue"},
		{Name: "max-io", Change: config.Restart,
			Value: config.Parsed(&o.maxIO, "512KiB", "SIZE",
				"a power of two from 64KiB to 1MiB", isMaxIO),
			Help: "largest request",
			More: "Without zero copy the kernel's requests are smaller (`max_sectors_kb`) as " +
				"long as none that large came, and where memory is short. Queues × depth × " +
				"max-io must fit into half of the memory, else the start is refused."},
		{Name: "zero-copy", Change: config.Restart,
			Value: config.Choice(&o.zeroCopy, "auto", "auto", "on", "off"),
			Help:  "leave the data in the kernel; on needs Linux 6.16",
			More:  "`on` exits 5 on a kernel that cannot, `off` copies."},
		{Name: "batch-io", Change: config.Restart,
			Value: config.Choice(&o.batchIO, "auto", "auto", "on", "off"),
			Help:  "exchange many requests with one command; on needs Linux 7.0",
			More: "`on` exits 5 on a kernel that cannot, `auto` is off. For trials: on Linux 7.0 " +
				"to 7.3, when a server dies that has it on, the kernel may still copy requests " +
				"to where the server's memory was while another process is in its place. The " +
				"server keeps its memory at addresses that mean nothing to others, so that the " +
				"copy fails, and the next server gets the request. The log warns anyway."},
		{Name: "poll", Value: config.Time(&o.poll, 0, 0, maxPoll, "a time from 0 to 10ms"),
			Help: "how long a queue looks for completions before it sleeps, such as 50us; takes " +
				"CPU time",
			More: "How long it really looks follows how soon they come, and an idle device costs " +
				"nothing. It lowers latency where CPUs are to spare, and costs up to a CPU for " +
				"each busy queue."},
		{Name: "huge-pages", Value: config.OnOff(&o.hugePages),
			Help: "huge pages for the buffers; without zero copy they take queues × depth × " +
				"max-io of memory from the start",
			More: "Large requests cost less. Nothing changes with zero copy."},
	}
}

// policyOptions say when a block counts as bad, and how long operations are tried.
func (o *startOptions) policyOptions() []config.Option {
	const more = "a time such as 2s, more than 0"
	return []config.Option{
		{Name: "retries", Value: config.Int(&o.retries, remap.DefaultRetries, 1, math.MaxInt32),
			Help: "how often a bad block is tried again before it is remapped"},
		{Name: "max-bad", Value: config.Int(&o.maxBad, remap.DefaultMaxBad, 1, math.MaxInt32),
			Help: "bad blocks that one request finds one by one, before the search gets coarser"},
		{Name: "isolate-time",
			Value: config.Time(&o.isolate, remap.DefaultIsolateFor, 1, math.MaxInt64, more),
			Help:  "time that one request may spend on finding its bad blocks",
			More: "Where a failure takes longer than an eighth of it, units of 4 KiB are tried " +
				"as a whole, each once, and what fails of one counts as bad together."},
		{Name: "fail-fast",
			Value: config.Time(&o.failFast, remap.DefaultFailFast, 0, math.MaxInt64,
				"a time such as 60s, or 0"),
			Help: "how long a pending block that failed to read is not read again, but answered " +
				"with an error; 0: never",
			More: "Reads of it do not wait for the drive to try for seconds or minutes. Reads " +
				"of pending blocks use a quarter of the queue's requests (`depth`) at a time; " +
				"others wait for a second, and are then answered with an error, so that bad " +
				"blocks never hold all of them for long. Writes and retests are never held " +
				"back."},
		{Name: "resource-time",
			Value: config.Time(&o.resource, remap.DefaultResourceFor, 1, math.MaxInt64, more),
			Help:  "how long I/O that fails for lack of memory is tried again"},
		{Name: "error-recovery", Change: config.Restart,
			Value: config.Parsed(&o.recovery, "7s", "T|keep", recoveryWanted, isRecovery),
			Help: "after how long the drive gives up a bad sector (SCT ERC, by smartctl), or " +
				"keep: as it is",
			More: "[COMMAND.md](COMMAND.md#error-recovery) has what is done to which drive."},
		{Name: "smart-type", NoFlag: true,
			Value:   config.Texts(&o.smart, "TYPE", smartWanted, isSmartType),
			Default: "smartctl finds out", Sample: "megaraid,3",
			Help: "what smartctl is to take the disk for, for health: smartctl -d",
			More: "For drives behind a RAID controller, one entry for each, and for USB bridges. " +
				"It takes effect at once."},
		{Name: "remap-budget", Value: config.Count(&o.budget, remap.DefaultBurst),
			Help: "units that may be remapped at once before the breaker trips"},
		{Name: "remap-rate", Value: config.Count(&o.rate, remap.DefaultPerSecond),
			Help: "units a second that the budget grows by"},
	}
}

// logOptions are flags of every verb, and keys for the log of a server.
func logOptions(level, format *string) []config.Option {
	return []config.Option{
		{Name: "log-level", Value: config.Choice(level, "info", logging.Levels...),
			Help: "least level that is logged"},
		{Name: "log-format", Value: config.Choice(format, "console", logging.Formats...),
			Help: "form of the log on standard error",
			More: "A server that logs to its file does so in JSON."},
	}
}

// addFlags adds a flag for each option.
func addFlags(f *pflag.FlagSet, options []config.Option) {
	for _, o := range config.Flags(options) {
		help := o.Help
		if o.Default != "" {
			help += " (default " + o.Default + ")"
		}
		flag := f.VarPF(o.Value, o.Name, "", help)
		if o.Value.Kind() == config.Switch {
			flag.NoOptDefVal = "true"
		}
	}
}

const pathWanted = "paths of block devices or files"

const smartWanted = "types of smartctl -d, such as megaraid,3 or sat"

// isSmartType refuses what cannot be a type. It is an argument of its own for smartctl.
func isSmartType(text string) error {
	if text == "" || text[0] == '-' || strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || r > '~'
	}) {
		return errors.New("no type of smartctl -d")
	}
	return nil
}

// anyPath refuses only text that cannot be a path.
func anyPath(text string) error {
	if text == "" || strings.ContainsRune(text, 0) {
		return errors.New("no path")
	}
	return nil
}

// isRecovery accepts the values of --error-recovery.
func isRecovery(text string) error {
	_, err := recoveryLimit(text)
	return err
}

func isUUID(text string) error {
	_, err := uuid.Parse(text)
	return err
}

// isMaxIO accepts the values of --max-io.
func isMaxIO(text string) error {
	_, err := maxIOBytes(text)
	return err
}

func maxIOBytes(text string) (int, error) {
	max, err := size.Parse(text)
	if err != nil {
		return 0, err
	}
	n, exact := max.Exact()
	if !exact || n < 64<<10 || n > 1<<20 || n&(n-1) != 0 {
		return 0, size.ErrSize
	}
	return int(n), nil
}

// config returns the configuration of a server with these options. The error is exit.ErrUsage if
// they contradict each other.
func (o *startOptions) config() (server.Config, error) {
	cfg := server.Config{
		Spares: o.spares, ID: o.id, Queues: o.queues, Depth: o.depth, Poll: o.poll,
		HugePages: o.hugePages, ZeroCopy: choices[o.zeroCopy], BatchIO: choices[o.batchIO],
		Policy: remap.Policy{
			Retries: o.retries, MaxBad: o.maxBad, IsolateFor: o.isolate, FailFast: o.failFast,
			ResourceFor: o.resource, Burst: o.budget, PerSecond: o.rate,
		},
		WriteLimit: writeLimit,
	}
	if o.failFast == 0 {
		cfg.Policy.FailFast = -1 // zero means the default in a Policy
	}
	var err error
	if cfg.MaxIO, err = maxIOBytes(o.maxIO); err != nil {
		return cfg, fmt.Errorf("max-io %w", err)
	}
	if cfg.Disks, err = recoveryLimit(o.recovery); err != nil {
		return cfg, fmt.Errorf("error-recovery: %w", err)
	}
	if cfg.BatchIO == ublk.Require && o.depth < 2 {
		return cfg, fmt.Errorf("depth %d: %w: want 2 or more with batch-io on", o.depth,
			exit.ErrUsage)
	}
	return cfg, nil
}

// choices are the values of options about features that the kernel may lack.
var choices = map[string]ublk.Choice{"auto": ublk.Auto, "on": ublk.Require, "off": ublk.Never}
