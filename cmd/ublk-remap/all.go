package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
)

// doneOne is an item of the JSON of start --all and stop --all.
type doneOne struct {
	Name   string `json:"name"`
	Device string `json:"device"` // empty: it has none
	Result string `json:"result"` // started, running, stopped or failed
	Code   int    `json:"code"`   // an exit code
	Error  string `json:"error"`  // empty unless it failed
}

// atOnce is how many sets are started or stopped at the same time. More than one is faster, because
// disks and the kernel take time. Few enough keep all servers of the host from starting at once.
func atOnce() int { return min(2*runtime.NumCPU(), 16) }

// allOr accepts n arguments, or none if all is set.
func allOr(all *bool, n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if *all {
			if len(args) > 0 {
				return fmt.Errorf("%s: %q is too much with --all", cmd.Name(), args[0])
			}
			return nil
		}
		return arguments(n, n)(cmd, args)
	}
}

// startAll starts the sets that are enabled or have a file.
func (a *app) startAll(cmd *cobra.Command) error {
	for _, o := range newStartOptions(nil).all {
		if f := cmd.LocalNonPersistentFlags().Lookup(o.Name); f != nil && f.Changed {
			return fmt.Errorf("--%s: %w: with --all each set has the options of its file", o.Name,
				exit.ErrUsage)
		}
	}
	if f := cmd.Flags().Lookup("foreground"); f.Changed {
		return fmt.Errorf("--foreground: %w: not with --all", exit.ErrUsage)
	}
	enabled, err := enabledNames()
	if err != nil {
		return err
	}
	names := maps.Clone(enabled)
	files, err := config.Names()
	if err != nil {
		return err
	}
	for _, name := range files {
		names[name] = true
	}
	ctx := cmd.Context()
	return a.each("starting", slices.Sorted(maps.Keys(names)), func(name string) doneOne {
		return startOne(ctx, name, enabled[name])
	})
}

// each does something to many sets, some at a time, and tells how far it is. It prints the result
// for each. Its error has the largest of their exit codes.
func (a *app) each(what string, names []string, do func(name string) doneOne) error {
	all := make([]doneOne, len(names))
	var wait sync.WaitGroup
	places := make(chan struct{}, atOnce())
	bar := a.progress(what)
	bar.Unit("devices")
	bar.Expected(int64(len(names)))
	for i, name := range names {
		wait.Go(func() {
			places <- struct{}{}
			all[i] = do(name)
			bar.Add(1)
			<-places
		})
	}
	wait.Wait()
	bar.End()
	worst := 0
	rows := [][]string{{"NAME", "DEVICE", "RESULT"}}
	for _, d := range all {
		worst = max(worst, d.Code)
		rows = append(rows, []string{cmp.Or(d.Name, "-"), cmp.Or(d.Device, "-"), d.Result})
	}
	var err error
	switch {
	case a.json:
		err = a.printJSON(all)
	case len(all) > 0:
		err = a.table(rows)
	}
	for _, d := range all {
		if d.Error != "" {
			a.tell("ublk-remap: %s: %s\n", readable.Text(cmp.Or(d.Name, d.Device)),
				strings.TrimPrefix(d.Error, readable.Text(d.Name)+": "))
		}
	}
	if worst != 0 && err == nil {
		err = &exit.Error{Code: worst, Text: fmt.Sprintf("not all of %d are as asked", len(all))}
	}
	return err
}

// startOne starts a set: by its unit if that is enabled, so that systemd supervises it.
func startOne(ctx context.Context, name string, enabled bool) doneOne {
	d := doneOne{Name: name, Result: "started"}
	if control.Owned(name) {
		d.Result = "running"
	} else if err := startBy(ctx, name, enabled); err != nil {
		d.Result, d.Code, d.Error = "failed", exit.Code(err), exit.Line(err)
	}
	if r, err := control.ReadRecord(name); err == nil && host.Active(name) {
		d.Device = r.Device
	}
	return d
}

func startBy(ctx context.Context, name string, enabled bool) error {
	if enabled && underSystemd() {
		unit, err := unitOf(name)
		if err != nil {
			return err
		}
		// Otherwise its unit would try the start over and over.
		r := startRun{startOptions: newStartOptions(nil)}
		if _, err := r.findDisk(ctx, name); err != nil {
			return err
		}
		return startUnit(ctx, name, unit)
	}
	// A process of its own can be abandoned. A read from a disk that hangs cannot be.
	child := exec.CommandContext(ctx, self, "start", "--", name)
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	var said bytes.Buffer
	child.Stderr = &said
	err := child.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return &exit.Error{Code: max(failed.ExitCode(), exit.Failed), Text: lastLine(said.String())}
	}
	return err
}

// lastLine is the last line of a child's errors, without the name of the program.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "ublk-remap: ")
}

// stopAll stops every device.
func (a *app) stopAll(ctx context.Context, force bool) error {
	h := a.host()
	all, err := h.Status(ctx)
	if err := a.allowPartial(err); err != nil {
		return err
	}
	names := map[string]string{}
	var devices []string
	for _, st := range all {
		names[st.Device] = st.Name
		devices = append(devices, st.Device)
	}
	return a.each("stopping", devices, func(device string) doneOne {
		d := doneOne{Name: names[device], Device: device, Result: "stopped"}
		s, err := h.Stop(ctx, device, force)
		if err != nil {
			d.Result, d.Code, d.Error = "failed", exit.Code(err), exit.Line(err)
		} else if err := releaseDrives(ctx, s.Name); err != nil {
			a.log.Warn().Msg(err.Error())
		}
		return d
	})
}

// setOf returns the set that a disk carries.
func setOf(b *host.Backing) set.Identity { return set.IdentityOf(b.Superblock) }
