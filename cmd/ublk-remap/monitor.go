package main

import (
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
)

// monitorCommand is carried out by the second program, see package companion.
func monitorCommand(a *app) *cobra.Command {
	cmd := companion.Monitor(func(*cobra.Command, *companion.MonitorOptions) error {
		return companion.Hand(a.args)
	})
	cmd.Args = arguments(0, 0)
	return cmd
}
