package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
)

// belowCommand tells the hooks that make an initramfs (packaging/initramfs-tools, packaging/dracut)
// which sets the initramfs has to start. It prints a line for each set whose device is below one of
// the file systems: UUID, name, backing and spare devices.
//
// A path that is on no device, such as one on a tmpfs, is no error, and a path that does not exist
// is no error either.
func belowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "below PATH...",
		Short:  "Print the sets that file systems lie on",
		Hidden: true,
		Args:   arguments(1, 16),
		RunE: func(_ *cobra.Command, args []string) error {
			records, err := a.host().Running()
			if err != nil {
				return err
			}
			below := map[int]bool{}
			for _, path := range args {
				for _, name := range blockdev.Beneath(path) {
					number, ours := strings.CutPrefix(name, "ublkb")
					if id, err := strconv.Atoi(number); ours && err == nil {
						below[id] = true
					}
				}
			}
			for _, r := range records {
				if !below[r.ID] {
					continue
				}
				if err := a.printBelow(r); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// printBelow prints the line of a set. Shell scripts split it into words.
func (a *app) printBelow(r *control.Record) error {
	words := append([]string{r.UUID, r.Name, r.Backing}, r.Spares...)
	for _, w := range words {
		if !word(w, "+=@%/") {
			return fmt.Errorf("%q cannot be passed on: what an initramfs starts is called by "+
				"letters, digits and :_.-+=@%%/ only", w)
		}
	}
	_, err := fmt.Fprintln(a.out, strings.Join(words, " "))
	return err
}
