package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/doctor"
	"ublkremap/cmd/ublk-remap/internal/exit"
)

func doctorCommand(a *app) *cobra.Command {
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What this kernel and machine can do, and what to do about the rest",
		Long: `Look at the kernel, its ublk driver, limits and what earlier servers left
behind. Nothing is changed without --fix.

--fix removes what nobody can miss: devices that were added and never started,
records of devices that do not exist any more, and sockets without a server. A
device that was live is left to start or stop.

The exit code is 5 if devices cannot be served here.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var fixed []string
			if fix {
				var err error
				fixed, err = doctor.Fix(cmd.Context())
				for _, line := range fixed {
					a.tell("ublk-remap: %s\n", line)
				}
				if err != nil {
					return err
				}
			}
			r := doctor.Examine(cmd.Context())
			r.Fixed = fixed
			if a.json {
				if err := a.printJSON(r); err != nil {
					return err
				}
			} else if err := a.printDoctor(r); err != nil {
				return err
			}
			if !r.OK() {
				return fmt.Errorf("%w (%w)", errSilent, exit.ErrUnsupported)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&fix, "fix", false, "remove what nobody can miss")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printDoctor(r *doctor.Report) error {
	var rows [][]string
	for _, c := range r.Checks {
		rows = append(rows, []string{string(c.State), c.Name, c.What})
		if c.Do != "" {
			rows = append(rows, []string{"", "", "→ " + c.Do})
		}
	}
	for _, f := range r.Features {
		state := "no"
		if f.Present {
			state = "yes"
		}
		rows = append(rows, []string{state, f.Name, fmt.Sprintf("%s (since Linux %s)", f.Purpose,
			f.Since)})
	}
	return a.table(rows)
}
