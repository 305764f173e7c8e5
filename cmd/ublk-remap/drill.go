package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// drilled is the JSON of drill.
type drilled struct {
	Device string        `json:"device"`
	Name   string        `json:"name"`
	Passed bool          `json:"passed"`
	Steps  []drilledStep `json:"steps"`
	DryRun bool          `json:"dry_run"`
}

// drilledStep is one step of a drill.
type drilledStep struct {
	Name   string  `json:"name"`
	Result string  `json:"result"` // ok, failed, or planned
	Detail string  `json:"detail"`
	TookMS float64 `json:"took_ms"`
}

func drillCommand(a *app) *cobra.Command {
	var dryRun, noRestart bool
	cmd := &cobra.Command{
		Use:   "drill DEV|NAME",
		Short: "Rehearse the loss of blocks, of the server and of the metadata",
		Long: `Rehearse what a failing disk needs, on a device that is in use. Nothing that its
users have is touched, and nothing remains of it but lines in the flight
recorder.

  1. heal     a few free spare units are set aside. A write to one of them fails
              as on a bad sector, and is healed; what was healed fails when it
              is read, is noted and healed once more. Data goes to the disk, and
              each commit writes a record to the metadata, which changes
              nothing.
  2. restore  a backup of the metadata is taken, and restored to memory. The
              table must be the same.
  3. restart  the server is swapped for one of this program, as by upgrade:
              users see a pause.
  4. heal     once more, by the new server.

The flight recorder has a line for the beginning and one for the end; see
events. Units that are set aside are known in memory only: if the drill is
interrupted, or the machine loses its power, nothing has to be undone.

Exit codes: 1 a step failed, 3 the device is in no state for it: the breaker is
open, or too few spare units are free.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			d := driller{app: a, record: r, out: drilled{Device: r.Device, Name: r.Name,
				Steps: []drilledStep{}, DryRun: dryRun}, noRestart: noRestart}
			return d.run(cmd.Context())
		},
	}
	dryRunFlag(cmd, &dryRun)
	cmd.Flags().BoolVar(&noRestart, "no-restart", false, "leave the server as it is")
	a.jsonFlag(cmd)
	return cmd
}

// driller carries out a drill.
type driller struct {
	app       *app
	record    *control.Record
	noRestart bool
	out       drilled
}

// drillStep is a step: what it is called, and what it does. do returns a word on it.
type drillStep struct {
	name, plan string
	do         func(context.Context) (string, error)
}

func (d *driller) steps() []drillStep {
	heal := drillStep{"heal", "fail, heal and read back blocks of spare units that are set aside",
		d.heal}
	list := []drillStep{heal, {"restore", "restore a backup of the metadata to memory", d.restore}}
	if !d.noRestart {
		list = append(list, drillStep{"restart", "swap the server for one of this program",
			d.restart}, heal)
	}
	return list
}

func (d *driller) run(ctx context.Context) error {
	st, err := control.NewClient(d.record.Name).Status(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", d.record.Device, err)
	}
	if st.Breaker.State != "closed" || st.State == control.StateStopping {
		return fmt.Errorf("%s: %w: it is %s: %s; a drill is for a device that works",
			d.record.Device, exit.ErrRefused, st.State, st.Reason)
	}
	if d.out.DryRun {
		if err := d.ready(ctx); err != nil {
			return fmt.Errorf("%s: %w", d.record.Device, err)
		}
	}
	var failed error
	begun := false
	for _, s := range d.steps() {
		row := drilledStep{Name: s.name, Result: "planned", Detail: s.plan}
		if !d.out.DryRun {
			began := time.Now()
			row.Result = "ok"
			row.Detail, failed = s.do(ctx)
			row.TookMS = float64(time.Since(began).Microseconds()) / 1e3
			if failed != nil && !begun && (errors.Is(failed, control.ErrRefused) ||
				errors.Is(failed, control.ErrNotFound)) {
				return fmt.Errorf("%s: %w", d.record.Device, failed) // nothing was begun
			}
			begun = true
			if failed != nil {
				row.Result, row.Detail = "failed", failed.Error()
			}
		}
		d.out.Steps = append(d.out.Steps, row)
		if err := d.show(row); err != nil && failed == nil {
			failed = err // what was begun gets its end in the flight recorder
		}
		if failed != nil {
			break
		}
	}
	return d.end(ctx, failed)
}

// ready asks the server whether it could begin. A server that does not know the question says so
// by ErrInvalid, and nothing more is known of it.
func (d *driller) ready(ctx context.Context) error {
	_, err := control.NewClient(d.record.Name).Drill(ctx, control.DrillReady)
	switch {
	case errors.Is(err, control.ErrNotFound):
		return fmt.Errorf("its server is of an older version, upgrade it first: %w", err)
	case errors.Is(err, control.ErrInvalid):
		return nil
	}
	return err
}

// show prints a step as it ends.
func (d *driller) show(row drilledStep) error {
	if d.app.json {
		return nil
	}
	took := ""
	if row.Result != "planned" {
		took = fmt.Sprintf(" (%.0f ms)", row.TookMS)
	}
	_, err := fmt.Fprintf(d.app.out, "%-8s  %-7s  %s%s\n", row.Name, row.Result,
		readable.Text(row.Detail),
		took)
	return err
}

// end notes in the flight recorder how the drill went, and prints it.
func (d *driller) end(ctx context.Context, failed error) error {
	d.out.Passed = failed == nil && !d.out.DryRun
	if !d.out.DryRun {
		do := control.DrillPassed
		if failed != nil {
			do = control.DrillFailed
		}
		// An interrupt must not keep the word on it from the flight recorder.
		if _, err := control.NewClient(d.record.Name).Drill(context.WithoutCancel(ctx),
			do); err != nil {
			failed = errors.Join(failed, fmt.Errorf("the flight recorder: %w", err))
			d.out.Passed = false
		}
	}
	if d.app.json {
		if err := d.app.printJSON(d.out); err != nil {
			return err
		}
	} else if d.out.Passed {
		if _, err := fmt.Fprintf(d.app.out, "%s: the drill passed\n", d.record.Device); err != nil {
			return err
		}
	}
	if failed != nil {
		return fmt.Errorf("%s: the drill failed: %w", d.record.Device, failed)
	}
	return nil
}

// heal has the server rehearse a heal.
func (d *driller) heal(ctx context.Context) (string, error) {
	r, err := control.NewClient(d.record.Name).Drill(ctx, control.DrillHeal)
	if errors.Is(err, control.ErrNotFound) {
		return "", fmt.Errorf("its server is of an older version, upgrade it first: %w", err)
	}
	if err != nil {
		return "", err
	}
	if r.Error != "" {
		return "", errors.New(r.Error)
	}
	return fmt.Sprintf("%d steps, %d records committed", len(r.Steps), r.Commits), nil
}

// restore takes a backup of the live metadata, and restores it to disks in memory that hold
// nothing.
func (d *driller) restore(ctx context.Context) (string, error) {
	b, _, err := takeBackup(ctx, d.app, d.record.Name, nil)
	if err != nil {
		return "", err
	}
	o, err := runOptions()
	if err != nil {
		return "", err
	}
	counts, err := metadata.RehearseRestore(b, o)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("as of record %s: %s remaps, %s blocks pending", b.Position,
		readable.Number(counts.Mapped), readable.Number(counts.Pending)), nil
}

// restart swaps the server, and waits until the new one answers.
func (d *driller) restart(ctx context.Context) (string, error) {
	u, err := d.app.upgrade(ctx, d.record, false)
	if err != nil {
		return "", err
	}
	r, err := d.app.host().Lookup(d.record.Name)
	if err != nil {
		return "", err
	}
	d.record = r
	return fmt.Sprintf("I/O paused for %.0f ms", u.PausedMS), nil
}
