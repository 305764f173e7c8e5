// Command bench measures ublk-remap and compares it with other drivers: the disk itself, the
// kernel's loop driver, dm-linear and ublksrv's loop target. Each has a null_blk disk in memory of
// its own. They take turns in one guest (or on this machine, if its kernel has ublk). make bench
// runs it.
//
//	bin/bench -kernel uml -peer /opt/ublksrv/ublk
//	bin/bench -kernel 7.3 -only 'randread-4k-d(1|32)/q1' -rounds 3 -peers 'ublksrv|remap'
//	bin/bench -variant 'old=/tmp/old/ublk-remap:' -variant 'fewer=--max-io=64KiB'
//	bin/bench -report DIR
//
// bench -help lists the flags; bench/README.md says what is measured and how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	switch {
	case o.report != "":
		return report(o.report, stdout)
	case o.list:
		return list(o, stdout)
	case o.kernel != kernelHost:
		if err := inGuest(ctx, o, stdout, stderr); err != nil {
			return err
		}
	default:
		if err := measureHere(ctx, o, stdout); err != nil {
			return err
		}
	}
	if o.json != "" {
		return nil // the host makes the report
	}
	return report(o.out, stdout)
}
