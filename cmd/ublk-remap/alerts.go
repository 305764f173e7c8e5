package main

import (
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
)

// alertsCommand is carried out by the second program, see package companion.
func alertsCommand(a *app) *cobra.Command {
	hand := func(*cobra.Command, bool) error { return companion.Hand(a.args) }
	return companion.Alerts(companion.AlertsRun{List: hand, Test: hand,
		Acknowledge: func(*cobra.Command, string, []string) error {
			return companion.Hand(a.args)
		}}, arguments)
}
