package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/internal/control"
	"ublkremap/internal/health"
	"ublkremap/internal/host"
)

// healthWait bounds how long the disks may take to tell of themselves.
const healthWait = time.Minute

func healthCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health DEV|NAME",
		Short: "Whether a disk is good, is to be watched, or is to be replaced",
		Long: `Say how the disk of a device is doing, from what the drive says of itself and
from what the server has seen of it: a verdict with its reasons, the worst first.

Verdicts:
  good         nothing speaks against the disk
  watch        look again often, and have a backup
  replace_now  replace the disk while it still reads
  unknown      the drive says nothing of itself, and the server met no error

smartctl (package smartmontools) asks the drives: SMART, NVMe and SCSI. Without it
the verdict rests on what the server has seen. The exit code does not follow the
verdict.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			st, err := a.host().StatusOf(cmd.Context(), r.Name)
			if err != nil {
				return err
			}
			seen, err := whatWasSeen(cmd.Context(), r, st)
			if err != nil {
				return err
			}
			report := health.Judge(seen, askDrives(cmd.Context(), r))
			if a.json {
				return a.printJSON(report)
			}
			return a.printHealth(st, &report)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// whatWasSeen asks the server. If it cannot be asked, that is noted.
func whatWasSeen(ctx context.Context, r *control.Record, st *control.Status) (*health.Seen, error) {
	s := &health.Seen{
		Tripped: st.Breaker.State == "open", Reason: st.Breaker.Reason, Blocks: st.SizeBlocks,
		BlockSize: st.BlockSize, Pending: st.Pending, Lost: st.Lost, SpareFree: st.Spare.Free,
		Spare: st.Spare.Total, Transport: st.Errors.Transport, Now: time.Now(),
	}
	if st.Created != nil {
		s.Since = *st.Created
	}
	if st.ServerPID == 0 || st.State == control.StateUnreachable {
		s.Unknown = true
		return s, nil
	}
	perUnit := uint64(max(4096/max(st.BlockSize, 1), 1))
	err := control.NewClient(r.Name).EachRemap(ctx, func(row control.Remap) error {
		if !health.ByDisk(row.Cause) {
			return nil
		}
		b := health.Bad{Block: row.Block, Count: row.Count}
		if row.Spare != nil {
			b.Spares = (row.Count + perUnit - 1) / perUnit
		}
		// A time that cannot be read is long ago.
		b.At, _ = time.Parse(time.RFC3339, row.Time)
		s.Bad = append(s.Bad, b)
		return nil
	})
	if errors.Is(err, control.ErrNotRunning) {
		*s = health.Seen{Now: s.Now, Unknown: true}
		return s, nil
	}
	return s, err
}

// askDrives has every disk below the set tell of itself.
func askDrives(ctx context.Context, r *control.Record) (all []health.Drive) {
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	for _, d := range host.Drives().Reports(ctx, host.DisksOf(r)) {
		drive := health.Decode(d.Disk, d.Output)
		if d.Err != nil {
			drive.Note = d.Err.Error()
		}
		all = append(all, drive)
	}
	return all
}

// verdictText says what a verdict means for the owner of the disk.
var verdictText = map[health.Verdict]string{
	health.Good:       "good: nothing speaks against the disk",
	health.Watch:      "watch: look again often, and have a backup",
	health.ReplaceNow: "replace now, while the disk still reads",
	health.Unknown:    "unknown: nothing tells whether the disk is good",
}

func (a *app) printHealth(st *control.Status, r *health.Report) error {
	rows := [][]string{{"device", st.Device + " (" + st.Name + ")"}}
	rows = appendWrapped(rows, "verdict", verdictText[r.Verdict])
	label := "why"
	for _, reason := range r.Reasons {
		rows = appendWrapped(rows, label, "- "+reason)
		label = ""
	}
	if st.ServerPID == 0 {
		rows = appendWrapped(rows, "server", "none could be asked: "+st.Reason)
	}
	for i := range r.Drives {
		rows = appendWrapped(rows, "drive", driveText(&r.Drives[i]))
	}
	return a.table(rows)
}

// driveText describes a drive in a line.
func driveText(d *health.Drive) string {
	parts := []string{strings.TrimSpace(d.Disk + " " + d.Model)}
	if d.Temperature != nil {
		parts = append(parts, fmt.Sprintf("%d °C", *d.Temperature))
	}
	if d.PowerOnHours != nil {
		parts = append(parts, fmt.Sprintf("on for %s hours", numText(uint64(*d.PowerOnHours))))
	}
	if d.EnduranceUsed != nil {
		parts = append(parts, fmt.Sprintf("%d %% of its endurance used", *d.EnduranceUsed))
	}
	if d.SelfTest != "" {
		parts = append(parts, "newest self-test: "+d.SelfTest)
	}
	if d.Note != "" {
		parts = append(parts, d.Note)
	}
	return strings.Join(parts, ", ")
}
