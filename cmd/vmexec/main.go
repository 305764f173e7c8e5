package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"ublkremap/test/vmtest/guest"
	"ublkremap/test/vmtest/proto"
)

// trialCode is the exit code of the KVM trial's program. No failure has it.
const trialCode = 42

func main() {
	switch {
	case os.Getpid() == 1:
		guest.Init()
	case filepath.Base(os.Args[0]) == "modprobe":
		os.Exit(guest.Modprobe(os.Args[1:]))
	case len(os.Args) == 2 && os.Args[1] == "-trial":
		os.Exit(trialCode)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM,
		syscall.SIGHUP, syscall.SIGQUIT)
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmexec:", err)
	}
	os.Exit(code)
}

// run parses the command line, prepares what guests need, and runs the program with these outputs.
// It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	o, err := parse(args, stderr)
	if err != nil {
		return proto.ExitSetup, err
	}
	h, err := newHost(ctx, o, stdout, stderr)
	if err != nil {
		return proto.ExitSetup, err
	}
	if o.fetch {
		return 0, nil
	}
	return h.runProgram(ctx)
}
