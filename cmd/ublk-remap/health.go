package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/verdict"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/drive"
	"ublkremap/internal/health"
	"ublkremap/internal/readable"
)

func healthCommand(a *app) *cobra.Command {
	var o drive.ReportOptions
	cmd := &cobra.Command{
		Use:   "health DEV|NAME",
		Short: "Whether a disk is good, is to be watched, or is to be replaced",
		Long: `Say how the disk of a device is doing, from what the drive says of itself and
from what the server has seen of it: a verdict with its reasons, the worst
first.

Verdicts:
  good         nothing speaks against the disk
  watch        look again often, and have a backup
  replace_now  replace the disk while it still reads
  unknown      the drive says nothing of itself, and the server met no error

smartctl (package smartmontools) asks the drives: SMART, NVMe and SCSI. Without
it the verdict rests on what the server has seen. A drive that sleeps is not
asked, unless --wake is given. The exit code does not follow the verdict.`,
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
			seen, err := verdict.Seen(cmd.Context(), r, st)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("smart-type") {
				if o.Types, err = smartTypes(r.Name); err != nil {
					return err
				}
			}
			report := health.Judge(seen, verdict.Drives(cmd.Context(), r, o))
			if a.json {
				return a.printJSON(report)
			}
			return a.printHealth(st, &report)
		},
	}
	f := cmd.Flags()
	f.Var(config.Texts(&o.Types, "TYPE", smartWanted, isSmartType), "smart-type",
		"what smartctl is to take the disk for (smartctl -d), such as megaraid,3; may be given "+
			"several times (default that of the configuration, else smartctl finds out)")
	f.BoolVar(&o.Wake, "wake", false, "also ask drives that sleep, which spins them up")
	a.jsonFlag(cmd)
	return cmd
}

// smartTypes returns what the configuration of a set says about its disk.
func smartTypes(name string) ([]string, error) {
	file, err := config.Read(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, config.ErrName) {
		return nil, nil
	}
	said := newStartOptions(nil)
	if err == nil {
		err = checkFile(file, said)
	}
	return said.smart, err
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
		unit := " hours"
		if *d.PowerOnHours == 1 {
			unit = " hour"
		}
		parts = append(parts, "on for "+readable.Number(uint64(*d.PowerOnHours))+unit)
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
