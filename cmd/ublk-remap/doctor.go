package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/doctor"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/config"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

func doctorCommand(a *app) *cobra.Command {
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What this machine can do, and what to do about the rest",
		Long: `Look at the kernel, its ublk driver, limits, what earlier servers left behind
and the files in /etc/ublk-remap. Nothing is changed without --fix.

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
			r.Checks = append(r.Checks, a.examineFiles(cmd.Context())...)
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

// examineFiles checks the configuration: one check for each file, or for each error of a file. A
// wrong file keeps its own set from starting, and no other one.
func (a *app) examineFiles(ctx context.Context) (checks []doctor.Check) {
	add := func(state doctor.State, what, do string) {
		checks = append(checks, doctor.Check{Name: "configuration", State: state,
			What: readable.Text(what), Do: readable.Text(do)})
	}
	files, err := filesMeant(nil)
	if err != nil {
		add(doctor.Warning, exit.Line(err), "")
	} else if len(files) == 0 {
		add(doctor.OK, config.Dir()+" has no file of a set; each starts with the defaults", "")
	}
	for _, path := range files {
		err := a.checkOne(ctx, path)
		if err == nil {
			add(doctor.OK, path, "")
		}
		for _, p := range problemsOf(path, err) {
			add(doctor.Warning, p.text(path), "mend the file, and then: "+
				shell.Command("config", "check", path))
		}
	}
	return checks
}

func (a *app) printDoctor(r *doctor.Report) error {
	var rows [][]string
	for _, c := range r.Checks {
		rows = append(rows, []string{string(c.State), c.Name, c.What})
		if c.Do != "" {
			rows = append(rows, []string{"", "", "→ " + c.Do})
		}
	}
	if err := a.table(a.fitted(rows)); err != nil {
		return err
	}
	rows = nil
	for _, f := range r.Features {
		state := "no"
		if f.Present {
			state = "yes"
		}
		rows = append(rows, []string{state, f.Name, fmt.Sprintf("%s (since Linux %s)", f.Purpose,
			f.Since)})
	}
	return a.table(a.fitted(rows))
}
