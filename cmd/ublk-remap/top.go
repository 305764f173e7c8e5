package main

import (
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
)

// topCommand is carried out by the second program, see package companion.
func topCommand(a *app) *cobra.Command {
	cmd := companion.Top(func(*cobra.Command) error { return companion.Hand(a.args) })
	cmd.Args = arguments(0, 0)
	return cmd
}
