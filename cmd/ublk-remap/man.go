package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/manual"
)

// manCommand writes the manual pages for packages, from the texts of --help.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIRECTORY",
		Short: "Write the manual pages of all verbs into a directory",
		Long: `Write the manual pages of all verbs into a directory that is there. Their date
is SOURCE_DATE_EPOCH, in seconds since 1970, or else that of the program's file.`,
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := manDate()
			if err != nil {
				return err
			}
			pages := manual.Pages{Section: "8", Source: "ublk-remap " + programVersion(),
				Date: date}
			return pages.Write(cmd.Root(), args[0])
		},
	}
}

// manDate is the date of the pages. The same program has the same pages each time. A package gives
// the program's file the date of the release.
func manDate() (time.Time, error) {
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s: %w: want a number", epoch,
				exit.ErrUsage)
		}
		return time.Unix(seconds, 0), nil
	}
	self, err := os.Executable()
	if err != nil {
		return time.Time{}, err
	}
	st, err := os.Stat(self)
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}
