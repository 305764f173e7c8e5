package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// manCommand writes the manual pages for packages, from the texts of --help.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the manual pages of all verbs into a directory",
		Long:   "Write the manual pages of all verbs into a directory that is there.",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Section: "8", Source: "ublk-remap " + programVersion(),
				Manual: "ublk-remap"}
			// A package build must produce the same pages each time.
			if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
				seconds, err := strconv.ParseInt(epoch, 10, 64)
				if err != nil {
					return fmt.Errorf("SOURCE_DATE_EPOCH=%s: %w: want a number", epoch,
						exit.ErrUsage)
				}
				date := time.Unix(seconds, 0).UTC()
				header.Date = &date
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			root.InitDefaultCompletionCmd()
			return doc.GenManTree(root, header, args[0])
		},
	}
}
