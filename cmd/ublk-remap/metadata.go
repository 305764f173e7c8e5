package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/set"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
)

func metadataCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "metadata", Short: "The metadata of a disk that is not being served", RunE: group}
	cmd.AddCommand(metadataCheckCommand(a), metadataDumpCommand(a))
	return cmd
}

func metadataCheckCommand(a *app) *cobra.Command {
	var spares []string
	cmd := &cobra.Command{
		Use:   "check BACKING",
		Short: "Read all metadata and say what is wrong with it",
		Long: `Read every copy of the metadata, and check it and the remap table. Nothing is written.
The exit code is 6 if the metadata is damaged; warnings leave it at 0. The disk must not
be served meanwhile.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			devs, err := offline(cmd.Context(), args[0], spares, false)
			if err != nil {
				return err
			}
			defer devs.Close()
			report, err := metadata.Check(devs.Metadata())
			if a.json {
				if jsonErr := a.printJSON(report); jsonErr != nil {
					return jsonErr
				}
			} else {
				if _, outErr := fmt.Fprint(a.out, report.String()); outErr != nil {
					return outErr
				}
			}
			if err == nil && !report.OK() {
				err = metadata.ErrDamaged
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&spares, "spare-device", nil, "path of a spare device; those not named are looked for")
	a.jsonFlag(cmd)
	return cmd
}

func metadataDumpCommand(a *app) *cobra.Command {
	var spares []string
	cmd := &cobra.Command{
		Use:   "dump BACKING",
		Short: "Print all metadata, as far as it can be read",
		Long: `Print superblocks, mirrors, log records and the remap table as one JSON document. Nothing
is written. Of a disk that is being served it is a snapshot that may be torn.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			devs, err := offline(cmd.Context(), args[0], spares, true)
			if err != nil {
				return err
			}
			defer devs.Close()
			dump, err := metadata.Dump(devs.Metadata())
			if dump != nil {
				if jsonErr := a.printJSON(dump); jsonErr != nil {
					return jsonErr
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&spares, "spare-device", nil, "path of a spare device; those not named are looked for")
	cmd.Flags().BoolVar(&a.json, "json", true, "print JSON; there is no other form")
	return cmd
}

// offline opens a set for reading. With shared it may be live; else it must not
// be, for records that are being written look damaged.
func offline(ctx context.Context, path string, spares []string, shared bool) (*set.Set, error) {
	s, err := set.Open(ctx, path, spares, blockdev.Options{ReadOnly: true, Shared: shared})
	if errors.Is(err, metadata.ErrDamaged) || errors.Is(err, metadata.ErrUnsupported) {
		// No superblock to go by: let the backing alone show what it has.
		d, openErr := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: shared})
		if openErr != nil {
			return nil, openErr
		}
		return &set.Set{Devices: []*blockdev.Device{d}}, nil
	}
	if errors.Is(err, blockdev.ErrBusy) {
		if sb, idErr := set.Identify(ctx, path); idErr == nil && control.Owned(sb.Name) {
			return nil, fmt.Errorf("%s: %w: it is being served as %q; stop it first (%w)", path, exit.ErrRefused, sb.Name, err)
		}
	}
	return s, err
}
