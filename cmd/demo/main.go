package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// options are those of the command line. The options about bad sectors are passed to badloop, which
// checks them.
type options struct {
	count, percent, list string // at most one; see badloop help
	seed                 uint64
	run                  int // longest run of bad sectors
	blockSize            int
	size                 string // of the disk
	tree                 string // directory to copy; empty: generate one
	badloop, ublkRemap   string // the programs
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.StringVar(&o.count, "c", "", "so many bad `sectors`, at random (default 100)")
	fs.StringVar(&o.percent, "p", "", "so many `percent` of all sectors, at random")
	fs.StringVar(&o.list, "f", "", "the bad sectors listed in this `file` (see badloop help)")
	fs.Uint64Var(&o.seed, "s", 1, "`seed` of the random choice and of the files' contents")
	fs.IntVar(&o.run, "r", 8, "bad sectors come in runs of 1 to `length`")
	fs.IntVar(&o.blockSize, "b", 512, "sector size in `bytes`, 512 or 4096")
	fs.StringVar(&o.size, "S", "128M", "`size` of the disk")
	fs.StringVar(&o.tree, "t", "", "`directory` to copy (default: files that the demo makes up)")
	fs.StringVar(&o.badloop, "badloop", "badloop", "the `program` that makes the disk")
	fs.StringVar(&o.ublkRemap, "ublk-remap", "ublk-remap", "the `program` to show")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q is one argument too many", fs.Arg(0))
	}
	ways := 0
	for _, way := range []string{o.count, o.percent, o.list} {
		if way != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return o, errors.New("of -c, -p and -f one is enough")
	case ways == 0:
		o.count = "100"
	}
	return o, nil
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM,
		syscall.SIGHUP)
	d := newShow(ctx, o, os.Stdout)
	err = d.play()
	stop() // a second interrupt ends the process at once
	if err != nil {
		d.lookAround()
	}
	d.undo()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: it could not go on:", err)
		os.Exit(1)
	}
	if !d.conclude() {
		os.Exit(1)
	}
}
