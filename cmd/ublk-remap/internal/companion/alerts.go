package companion

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// AlertsRun is what the verbs below alerts do.
type AlertsRun struct {
	List        func(cmd *cobra.Command, json bool) error
	Acknowledge func(cmd *cobra.Command, set string, kinds []string) error
	Test        func(cmd *cobra.Command, json bool) error
}

// Alerts declares the verb alerts, which run carries out. arguments checks how many there are.
func Alerts(run AlertsRun, arguments func(least, most int) cobra.PositionalArgs) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alerts",
		Short: "What the monitor tells about: list, acknowledge, test",
		Long: `The monitor of this host tells of what happens to devices: in the journal, by
mail, by a command, by a webhook, and by hooks. /etc/ublk-remap/monitor.conf
says whom; docs/OPERATIONS.md has a section for each alert.

It tells when something happens, when it gets worse, and when it is over. What
was acknowledged is quiet until it gets worse.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: alerts has no verb %q", exit.ErrUsage, args[0])
			}
			_ = cmd.Help()
			return fmt.Errorf("%w: want list, ack or test", exit.ErrUsage)
		},
	}
	cmd.AddCommand(alertsList(run, arguments), alertsAck(run, arguments),
		alertsTest(run, arguments))
	return cmd
}

func alertsList(run AlertsRun, arguments func(int, int) cobra.PositionalArgs) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The alerts that are there",
		Long: `List the alerts that are there: since when, of which device, whether somebody
has acknowledged them, what happened, and what to do. If no monitor runs, it
lists what the last one has noted.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run.List(cmd, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func alertsAck(run AlertsRun, arguments func(int, int) cobra.PositionalArgs) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ack DEV|NAME [ALERT…]",
		Short: "Be quiet about alerts until they get worse",
		Long: `Acknowledge alerts of a device, or of all with --all: they are not told again
until they get worse. That they are over is told. Without ALERT all alerts of
the device are meant.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return arguments(0, 0)(cmd, args)
			}
			return arguments(1, 1<<10)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return run.Acknowledge(cmd, "", nil)
			}
			if args[0] == "" { // to the monitor no name means all
				return fmt.Errorf("%w: the name is empty; for all devices: --all", exit.ErrUsage)
			}
			return run.Acknowledge(cmd, args[0], args[1:])
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all alerts of all devices")
	return cmd
}

func alertsTest(run AlertsRun, arguments func(int, int) cobra.PositionalArgs) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Send a test alert by every way",
		Long: `Send a test alert by every way that /etc/ublk-remap/monitor.conf asks for, and
say which of them worked. The monitor that runs sends it, so it has what the
monitor may do; without one, this command does.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run.Test(cmd, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
