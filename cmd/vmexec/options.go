package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"ublkremap/test/vmtest/machine"
	"ublkremap/test/vmtest/qemu"
)

// Environment variables that give flags another default.
const (
	envKernel  = "UBLK_REMAP_VM_KERNEL"
	envTools   = "UBLK_REMAP_VM_TOOLS"
	envMemory  = "UBLK_REMAP_VM_MEM"
	envCPUs    = "UBLK_REMAP_VM_SMP"
	envAccel   = "UBLK_REMAP_VM_ACCEL"
	envTimeout = "UBLK_REMAP_VM_TIMEOUT"
	envAppend  = "UBLK_REMAP_VM_APPEND"
)

// pair is a FROM:TO argument; TO may be left out.
type pair struct{ from, to string }

type diskSpec struct {
	bytes     int64
	blockSize int
	kind      string
}

// options is the command line.
type options struct {
	kernel, accel, append, dir string
	tools, modules, load       []string
	files, collect             []pair
	env                        []string
	disks                      []diskSpec
	memoryMiB, cpus            int
	timeout                    time.Duration
	fetch, update, keep        bool
	verbose, noRetry, parallel bool
	args                       []string
}

// defaultLoad are the modules that nearly every test needs.
const defaultLoad = "configfs,loop,dm_mod,ublk_drv"

func parse(args []string, usage io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("vmexec", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.Usage = func() {
		_, _ = fmt.Fprint(usage, "usage: vmexec [flags] PROGRAM [ARG...]\n\n"+
			"Runs a program, a test binary or a script in a guest with one of Debian's "+
			"kernels.\n\n")
		fs.PrintDefaults()
		_, _ = fmt.Fprint(usage, "\nExit codes: the program's own; 96 it ran too long; 97 the "+
			"guest gave no result;\n"+
			"98 no guest could be started; 99 the guest could not start the program.\n")
	}
	o.contentFlags(fs)
	o.runFlags(fs)
	if err := o.machineFlags(fs); err != nil {
		return nil, err
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	o.args = fs.Args()
	if len(o.args) > 0 && o.args[0] == "--" {
		o.args = o.args[1:]
	}
	return o, o.check()
}

// contentFlags defines the flags about the files in the guest.
func (o *options) contentFlags(fs *flag.FlagSet) {
	list := func(name, value, help string, to *[]string) {
		*to = splitList(value)
		fs.Func(name, help+fmt.Sprintf(" (default %q)", value), func(s string) error {
			*to = splitList(s)
			return nil
		})
	}
	pairs := func(name, help string, to *[]pair) {
		fs.Func(name, help, func(s string) error {
			from, dst, _ := strings.Cut(s, ":")
			*to = append(*to, pair{from, dst})
			return nil
		})
	}
	list("tools", envString(envTools, ""), "comma-separated `tools` of the host: names, paths, "+
		"or the sets base, fs, all; $"+envTools, &o.tools)
	list("modules", "", "further kernel `modules` to have on board", &o.modules)
	list("load", defaultLoad, "`modules` to load before the program starts", &o.load)
	pairs("file", "`HOST[:GUEST]` file or directory to have in the guest; repeatable", &o.files)
	pairs("collect", "`GUEST:HOST` file to bring back afterwards; repeatable", &o.collect)
	fs.StringVar(&o.dir, "dir", "", "working `directory` in the guest (for tests: the package's, "+
		"else /root)")
	fs.Func("env", "`NAME=VALUE`, or NAME to pass on; repeatable", func(s string) error {
		o.env = append(o.env, s)
		return nil
	})
	fs.Func("disk", "scratch disk of `SIZE[:BLOCKSIZE[:KIND]]`, such as 1G or 256M:4096; "+
		"repeatable, /dev/vda first (uml: /dev/ubda). KIND ata or nvme is an emulated drive that "+
		"answers SMART, with blocks of 512 bytes: /dev/sda, /dev/nvme0n1", func(s string) error {
		d, err := parseDisk(s)
		o.disks = append(o.disks, d)
		return err
	})
}

// machineFlags defines the flags about the machine of the guest.
func (o *options) machineFlags(fs *flag.FlagSet) error {
	mem, err1 := envInt(envMemory, 2048)
	cpus, err2 := envInt(envCPUs, 2)
	timeout, err3 := envDuration(envTimeout, 10*time.Minute)
	fs.StringVar(&o.kernel, "kernel", envString(envKernel, "7.3"),
		"kernel `series` of Debian, uml, or a directory with vmlinuz and lib/modules; $"+envKernel)
	fs.IntVar(&o.memoryMiB, "mem", mem, "memory in `MiB`; $"+envMemory)
	fs.IntVar(&o.cpus, "smp", cpus, "`number` of CPUs (uml has one); $"+envCPUs)
	fs.DurationVar(&o.timeout, "timeout", timeout, "how long the program may run (tests: "+
		"-test.timeout and 30 s); $"+envTimeout)
	fs.StringVar(&o.accel, "accel", envString(envAccel, "auto"), "auto, kvm or tcg; $"+envAccel)
	fs.BoolVar(&o.parallel, "parallel", false, "emulate each CPU by a thread of its own: faster "+
		"with several, and now and then a guest gives no result")
	fs.StringVar(&o.append, "append", envString(envAppend, ""),
		"addition to the kernel's command line; $"+envAppend)
	return errors.Join(err1, err2, err3)
}

// runFlags defines the flags about the run.
func (o *options) runFlags(fs *flag.FlagSet) {
	fs.BoolVar(&o.fetch, "fetch", false, "only fetch the kernel (uml: build it) and prepare the "+
		"archives")
	fs.BoolVar(&o.update, "update", false, "look for a newer kernel of the series than the one "+
		"in the cache")
	fs.BoolVar(&o.keep, "keep", false, "keep the console log even if all went well, and say "+
		"where it is")
	fs.BoolVar(&o.noRetry, "no-retry", false,
		"do not start a second guest if the first gives no result")
	fs.BoolVar(&o.verbose, "v", false, "say what is being done")
}

func (o *options) check() error {
	switch {
	case len(o.args) == 0 && !o.fetch:
		return errors.New("no program; see vmexec -help")
	case o.accel != "auto" && o.accel != qemu.KVM && o.accel != qemu.TCG:
		return fmt.Errorf("-accel %s: auto, kvm or tcg", o.accel)
	case o.memoryMiB < 256 || o.cpus < 1:
		return fmt.Errorf("-mem %d -smp %d: at least 256 MiB and one CPU", o.memoryMiB, o.cpus)
	case len(o.disks) > 16:
		return fmt.Errorf("%d disks: at most 16", len(o.disks))
	}
	for _, c := range o.collect {
		if !strings.HasPrefix(c.from, "/") || c.to == "" {
			return fmt.Errorf("-collect %s:%s: an absolute path in the guest, a colon, a path here",
				c.from, c.to)
		}
	}
	return nil
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// parseDisk reads SIZE[:BLOCKSIZE], SIZE in bytes or with K, M, G (powers of 1024).
func parseDisk(s string) (diskSpec, error) {
	size, block, hasBlock := strings.Cut(s, ":")
	block, kind, hasKind := strings.Cut(block, ":")
	d := diskSpec{blockSize: 512, kind: kind}
	if hasKind && (kind != machine.ATA && kind != machine.NVMe || block != "512") {
		return d, fmt.Errorf("disk %q: the kind is ata or nvme, with blocks of 512", s)
	}
	if hasBlock {
		if block != "512" && block != "4096" {
			return d, fmt.Errorf("block size %q: 512 or 4096", block)
		}
		d.blockSize, _ = strconv.Atoi(block)
	}
	shift := 0
	size = strings.TrimSuffix(size, "iB")
	for suffix, bits := range map[string]int{"K": 10, "M": 20, "G": 30, "T": 40} {
		if n, ok := strings.CutSuffix(size, suffix); ok {
			size, shift = n, bits
			break
		}
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n <= 0 || n > (1<<50)>>shift {
		return d, fmt.Errorf("disk size %q: a number with K, M, G or T", s)
	}
	d.bytes = n << shift
	if d.bytes%4096 != 0 {
		return d, fmt.Errorf("disk size %q: not a multiple of 4096", s)
	}
	return d, nil
}

func envString(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func envInt(name string, otherwise int) (int, error) {
	v := os.Getenv(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fmt.Errorf("$%s: %w", name, err)
	}
	return n, nil
}

func envDuration(name string, otherwise time.Duration) (time.Duration, error) {
	v := os.Getenv(name)
	if v == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, fmt.Errorf("$%s: %w", name, err)
	}
	return d, nil
}
