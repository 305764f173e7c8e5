package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"ublkremap/bench/peer"
)

// kernelHost is this machine's own kernel, instead of a guest's.
const kernelHost = "host"

// errUsage is returned for a command line that makes no sense.
var errUsage = errors.New("usage")

// options are the command line.
type options struct {
	kernel   string
	only     *regexp.Regexp
	peers    *regexp.Regexp
	rounds   int
	runtime  time.Duration
	mib      int64
	queues   []int
	depth    int
	block    int
	seed     uint64
	remaps   []int64
	idle     time.Duration
	heals    int
	ublksrv  string
	program  string
	variants []variant

	out, report, json string
	list              bool
	commit, command   string
	host              string
	cpu, memory, smp  int
	vmflags           string
}

// variant is ublk-remap with further flags, or another build of it.
type variant struct {
	name, program string
	flags         []string
}

// rawOptions are flags that are parsed once all of them are known.
type rawOptions struct{ only, peers, queues, remaps string }

func parse(args []string, stderr io.Writer) (*options, error) {
	o, raw := &options{}, &rawOptions{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	o.measureFlags(fs, raw)
	o.outputFlags(fs)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%w: %q is no flag", errUsage, fs.Arg(0))
	}
	if o.report != "" {
		return o, nil
	}
	if err := errors.Join(o.read(raw), o.check()); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	o.complete(args, raw)
	return o, nil
}

// measureFlags defines the flags about what is measured, and on which devices.
func (o *options) measureFlags(fs *flag.FlagSet, raw *rawOptions) {
	fs.StringVar(&o.kernel, "kernel", "uml", "uml, a `series` of Debian's kernels (6.12, 7.3), "+
		"or host: this machine's own")
	fs.StringVar(&raw.only, "only", "", "`pattern` of what to measure: SUITE/JOB/qQUEUES, such as "+
		"randread-4k-d32/q1, sync/, remaps/, idle/, heal/; -list shows all")
	fs.StringVar(&raw.peers, "peers", "", "`pattern` of the devices' names, such as "+
		"'ublksrv|remap'")
	fs.IntVar(&o.rounds, "rounds", 5, "`number` of rounds; odd numbers have a true median")
	fs.DurationVar(&o.runtime, "runtime", 2*time.Second, "`time` that each job is measured for "+
		"in each round")
	fs.Int64Var(&o.mib, "size", 128, "`MiB` of each device that are used")
	fs.StringVar(&raw.queues, "queues", "", "`numbers` of hardware queues, such as 1,4 (default 1 "+
		"for uml, else 1,4)")
	fs.IntVar(&o.depth, "depth", 128, "requests in flight of each queue")
	fs.IntVar(&o.block, "block", 512, "block size of the disks in `bytes`")
	fs.Uint64Var(&o.seed, "seed", 0, "`seed` of the order in which devices take turns (default: "+
		"by the clock)")
	fs.StringVar(&raw.remaps, "remaps", "0,1000,100000,1000000",
		"`numbers` of remaps that no request meets")
	fs.DurationVar(&o.idle, "idle", 10*time.Second, "how long idle devices are watched")
	fs.IntVar(&o.heals, "heals", 300, "`number` of bad blocks that are healed, at most 400")
	fs.StringVar(&o.ublksrv, "peer", "", "`path` of ublksrv's program ublk (default: the one in "+
		"PATH, if any)")
	fs.StringVar(&o.program, "program", beside("ublk-remap"), "`path` of ublk-remap")
	fs.Func("variant", "`NAME=[PROGRAM:]FLAGS` of ublk-remap start, measured as well; copying "+
		"and without, unless FLAGS has --zero-copy. Repeatable, or several with ; between",
		o.addVariants)
}

// addVariants reads the flag -variant.
func (o *options) addVariants(s string) error {
	for one := range strings.SplitSeq(s, ";") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		v, err := parseVariant(one)
		if err != nil {
			return err
		}
		o.variants = append(o.variants, v)
	}
	return nil
}

// outputFlags defines the flags that say where the results go, and in which guest the measurement
// runs.
func (o *options) outputFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.out, "out", "", "`directory` for results (default bench/results/DATE-KERNEL; "+
		"of runs that leave something out bin/results/DATE-KERNEL)")
	fs.StringVar(&o.report, "report", "", "measure nothing, make the table and the plots in this "+
		"`directory` anew")
	fs.BoolVar(&o.list, "list", false, "measure nothing, print what -only selects")
	fs.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "CPU that user-mode Linux is pinned to; -1: none")
	fs.IntVar(&o.memory, "mem", 4096, "memory of a guest in `MiB`")
	fs.IntVar(&o.smp, "smp", 2, "CPUs of a guest (uml has one)")
	fs.StringVar(&o.vmflags, "vmflags", "", "further `flags` of vmexec")
	fs.StringVar(&o.commit, "commit", "unknown", "what the results are of")
	fs.StringVar(&o.command, "command", "",
		"the `command` that the results name (default: this one)")
	fs.StringVar(&o.host, "host", "", "`processor` of the machine that the guest runs on")
	fs.StringVar(&o.json, "json", "", "only write the figures, to this `file`")
}

// read parses the flags that are kept as text.
func (o *options) read(raw *rawOptions) error {
	var err1, err2, err3, err4 error
	o.only, err1 = regexp.Compile(raw.only)
	o.peers, err2 = regexp.Compile(raw.peers)
	if raw.queues == "" {
		raw.queues = "1,4"
		if o.kernel == "uml" {
			raw.queues = "1"
		}
	}
	var list []int64
	list, err3 = numbers(raw.queues, 1, 64)
	for _, n := range list {
		o.queues = append(o.queues, int(n))
	}
	o.remaps, err4 = numbers(raw.remaps, 0, 16<<20)
	return errors.Join(err1, err2, err3, err4)
}

// check refuses what cannot be measured.
func (o *options) check() error {
	switch {
	case o.rounds < 1 || o.runtime < 100*time.Millisecond || o.mib < 1 || o.idle <= 0:
		return errors.New("at least one round, 100 ms, 1 MiB")
	case o.depth < 1 || o.depth > 1024 || o.block != 512 && o.block != 4096:
		return errors.New("-depth is 1 to 1024, -block 512 or 4096")
	case o.heals < 1 || o.heals > maxHeals:
		return fmt.Errorf("-heals is 1 to %d", maxHeals)
	case o.mib*256 < 2*int64(o.heals):
		return fmt.Errorf("%d MiB are too small for %d heals", o.mib, o.heals)
	}
	return nil
}

// complete sets the defaults that depend on other things.
func (o *options) complete(args []string, raw *rawOptions) {
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if o.command == "" {
		o.command = "bin/bench " + quote(args)
	}
	if o.ublksrv == "" {
		o.ublksrv, _ = exec.LookPath("ublk")
	}
	if o.out == "" {
		top := "bench/results"
		if raw.only != "" || raw.peers != "" || o.rounds < 5 {
			top = "bin/results"
		}
		o.out = filepath.Join(top, time.Now().UTC().Format("20060102T1504")+"-"+
			filepath.Base(o.kernel))
	}
}

// quote writes arguments as a shell reads them.
func quote(args []string) string {
	plain := regexp.MustCompile(`^[A-Za-z0-9_./:=,+-]+$`)
	out := make([]string, len(args))
	for i, a := range args {
		if out[i] = a; !plain.MatchString(a) {
			out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

// beside is the path of a program in the directory of this one.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

func numbers(s string, low, high int64) ([]int64, error) {
	var out []int64
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(f), 10, 64)
		if err != nil || n < low || n > high {
			return nil, fmt.Errorf("%q: want numbers from %d to %d", s, low, high)
		}
		out = append(out, n)
	}
	return out, nil
}

var variantName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)

// parseVariant reads NAME=FLAGS or NAME=PROGRAM:FLAGS; a PROGRAM has a slash in it, and
// FLAGS begin with a dash.
func parseVariant(s string) (variant, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || !variantName.MatchString(name) {
		return variant{}, fmt.Errorf("variant %q: want NAME=[PROGRAM:]FLAGS", s)
	}
	v := variant{name: name}
	if !strings.HasPrefix(strings.TrimSpace(rest), "-") {
		var flags string
		v.program, flags, _ = strings.Cut(rest, ":")
		if v.program = strings.TrimSpace(v.program); !strings.Contains(v.program, "/") {
			return variant{}, fmt.Errorf("variant %q: %q is neither flags nor a path", s, v.program)
		}
		rest = flags
	}
	v.flags = strings.Fields(rest)
	return v, nil
}

// makePeers lists the devices of the suite io.
func (o *options) makePeers() []peer.Peer {
	out := []peer.Peer{
		{Name: "raw", Kind: peer.Raw},
		{Name: "loop", Kind: peer.Loop},
		{Name: "linear", Kind: peer.Linear},
		{Name: "ublksrv", Kind: peer.Ublksrv, Program: o.ublksrv},
		{Name: "ublksrv-z", Kind: peer.Ublksrv, Program: o.ublksrv, Zero: true},
		{Name: "remap", Kind: peer.Remap, Program: o.program},
		{Name: "remap-z", Kind: peer.Remap, Program: o.program, Zero: true},
	}
	for _, v := range o.variants {
		p := peer.Peer{Name: v.name, Kind: peer.Remap, Program: v.program, Flags: v.flags,
			Variant: true}
		if p.Program == "" {
			p.Program = o.program
		}
		mode := slices.IndexFunc(v.flags,
			func(f string) bool { return strings.HasPrefix(f, "--zero-copy") })
		if mode >= 0 {
			p.Flags = slices.Delete(slices.Clone(v.flags), mode, mode+1)
			p.Zero = v.flags[mode] == "--zero-copy=on"
			out = append(out, p)
			continue
		}
		out = append(out, p)
		p.Name, p.Zero = p.Name+"-z", true
		out = append(out, p)
	}
	return o.selected(out)
}

// makeTables lists the devices of the suite remaps.
func (o *options) makeTables() []peer.Peer {
	var out []peer.Peer
	for _, zero := range []bool{false, true} {
		suffix := ""
		if zero {
			suffix = "-z"
		}
		for _, n := range o.remaps {
			// The units that lie between those that the jobs ask for.
			out = append(out, peer.Peer{Name: "remaps-" + count(n) + suffix, Kind: peer.Remap,
				Program: o.program, Zero: zero,
				Table: &peer.Table{Remaps: n, First: 1, Every: 2}})
		}
		out = append(out, peer.Peer{Name: "every-100th" + suffix, Kind: peer.Remap,
			Program: o.program, Zero: zero,
			Table: &peer.Table{Remaps: o.mib * 256 / 100, Every: 100}})
	}
	return o.selected(out)
}

// makeScrubs lists the devices of the suite scrub: without a scrub, with one, and once more
// without, which shows what chance makes of it.
func (o *options) makeScrubs() []peer.Peer {
	var out []peer.Peer
	for _, zero := range []bool{false, true} {
		suffix := ""
		if zero {
			suffix = "-z"
		}
		for _, name := range []string{"alone", "scrubbed", "again"} {
			out = append(out, peer.Peer{Name: name + suffix, Kind: peer.Remap, Program: o.program,
				Zero: zero, Variant: name != "alone", Scrub: name == "scrubbed"})
		}
	}
	return o.selected(out)
}

func count(n int64) string {
	switch {
	case n > 0 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n > 0 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	default:
		return fmt.Sprint(n)
	}
}

func (o *options) selected(peers []peer.Peer) []peer.Peer {
	return slices.DeleteFunc(peers, func(p peer.Peer) bool { return !o.peers.MatchString(p.Name) })
}
