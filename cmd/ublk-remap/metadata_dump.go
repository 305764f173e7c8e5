package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/internal/host"
	"ublkremap/metadata"
)

func metadataDumpCommand(a *app) *cobra.Command {
	var spares []string
	cmd := &cobra.Command{
		Use:   "dump BACKING",
		Short: "Print all metadata, as far as it can be read",
		Long: `Print superblocks, mirrors, log records and the remap table as one JSON
document. Nothing is written. Of a disk that is being served it is a snapshot
that may be torn. A dump of a set that loads, with all of its devices, can be
restored: see metadata restore.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := diskOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			devs, err := host.OpenToRead(cmd.Context(), path, spares, true)
			if err != nil {
				return err
			}
			defer devs.Close()
			var w watch
			w.begin(a, "reading the metadata of "+path, 0)
			dump, err := metadata.Dump(w.of(devs))
			w.end()
			if dump != nil {
				if jsonErr := dump.WriteJSON(jsonWriter{a.out}, "  "); jsonErr != nil {
					return jsonErr
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		},
	}
	spareFlag(cmd, &spares)
	cmd.Flags().BoolVar(&a.json, "json", true, "print JSON; there is no other form")
	return cmd
}
