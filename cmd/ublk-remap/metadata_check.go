package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// addEndMarks adds to the report the data that other tools find at the end of the backing.
func addEndMarks(devs *set.Set, report *metadata.Report) {
	if report.Superblock == nil {
		return
	}
	if found := set.EndMarks(devs.Devices[0], report.Superblock); found != "" {
		report.Problems = append(report.Problems, metadata.Problem{
			Severity: metadata.SeverityWarning, Where: devs.Devices[0].Path(), What: found,
			Do: set.EndMarksDo,
		})
	}
}

func metadataCheckCommand(a *app) *cobra.Command {
	var spares []string
	cmd := &cobra.Command{
		Use:   "check BACKING",
		Short: "Read all metadata and say what is wrong with it",
		Long: `Read every copy of the metadata, and check it and the remap table. Nothing is
written. The exit code is 6 if the metadata is damaged; warnings leave it at 0.
The disk must not be served meanwhile.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := diskOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			devs, err := host.OpenToRead(cmd.Context(), path, spares, false)
			if err != nil {
				return err
			}
			defer devs.Close()
			var w watch
			w.begin(a, "reading the metadata of "+path, 0)
			report, err := metadata.Check(w.of(devs))
			w.end()
			addEndMarks(devs, &report)
			if a.json {
				if jsonErr := a.printJSON(report); jsonErr != nil {
					return jsonErr
				}
			} else {
				if _, outErr := fmt.Fprint(a.out, readable.Lines(report.String())); outErr != nil {
					return outErr
				}
			}
			if err == nil && !report.OK() {
				err = metadata.ErrDamaged
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		},
	}
	spareFlag(cmd, &spares)
	a.jsonFlag(cmd)
	return cmd
}
