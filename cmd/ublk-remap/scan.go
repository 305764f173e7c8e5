package main

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/internal/config"
	"ublkremap/internal/host"
)

// scanned is an item of the JSON of scan.
type scanned struct {
	host.Scanned
	Enabled bool   `json:"enabled"` // its unit starts when the disk appears
	File    string `json:"file"`    // its configuration; empty: it has none
}

func scanCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "List the disks here that carry sets, and what each needs to run",
		Long: `List the disks here that carry sets, with or without a server, and what each
needs to run: a spare device that is missing, a copy that is in the way,
metadata that is damaged, a server that is dead while I/O waits for the next
one. Nothing is written. Disks that do not answer are listed as unreadable.

Block devices are looked at, and the files that are served or that a
configuration names.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.host().Scan(cmd.Context(), configuredPaths())
			if err := a.allowPartial(err); err != nil {
				return err
			}
			enabled, err := enabledNames()
			if err != nil {
				return err
			}
			items := []scanned{}
			for _, s := range all {
				item := scanned{Scanned: s, Enabled: enabled[s.Name]}
				if f, err := config.Read(s.Name); err == nil {
					item.File = f.Path
				}
				items = append(items, item)
			}
			if a.json {
				return a.printJSON(items)
			}
			return a.printScan(items)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// configuredPaths returns the disks that the files of sets name. It ignores files with errors.
func configuredPaths() []string {
	names, err := config.Names()
	if err != nil {
		return nil
	}
	var paths []string
	for _, name := range names {
		f, err := config.Read(name)
		if err != nil {
			continue
		}
		for _, key := range []string{"backing", "spare-device"} {
			if s := f.Setting(key); s != nil {
				paths = append(paths, s.Texts...)
			}
		}
	}
	return paths
}

func (a *app) printScan(items []scanned) error {
	if len(items) == 0 {
		return nil
	}
	rows := [][]string{{"BACKING", "NAME", "STATE", "DEVICE", "ENABLED", "SPARE DEVICES"}}
	for _, it := range items {
		enabled := "no"
		if it.Enabled {
			enabled = "yes"
		}
		rows = append(rows, []string{cmp.Or(it.Backing, "-"), cmp.Or(it.Name, "-"), it.State,
			cmp.Or(it.Device, "-"), enabled, cmp.Or(strings.Join(it.SpareDevices, " "), "-")})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	var notes [][]string
	for _, it := range items {
		if it.Reason == "" {
			continue
		}
		notes = appendWrapped(append(notes, []string{}), cmp.Or(it.Backing, it.Name), it.Reason)
		notes = appendWrapped(notes, "", it.Action)
	}
	return a.table(notes)
}
