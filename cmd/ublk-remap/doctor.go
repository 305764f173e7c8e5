package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/doctor"
	"ublkremap/cmd/ublk-remap/internal/exit"
)

func doctorCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What this kernel and machine can do, and what to do about the rest",
		Long: `Look at the kernel, its ublk driver, limits and left-over devices. Nothing is changed.
The exit code is 5 if devices cannot be served here.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := doctor.Examine(cmd.Context())
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
		rows = append(rows, []string{state, f.Name, fmt.Sprintf("%s (since Linux %s)", f.Purpose, f.Since)})
	}
	return a.table(rows)
}
