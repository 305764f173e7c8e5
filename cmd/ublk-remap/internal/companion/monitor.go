package companion

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// MonitorOptions are the flags of the verb monitor.
type MonitorOptions struct {
	Listen    []string // addresses, host:port
	WebConfig string   // path; empty: neither certificates nor users
	Textfile  string   // directory; empty: serve
	NoAlerts  bool     // serve only
}

// defaultListen is where the monitor listens unless it is told otherwise. It tells about the disks
// of a host, so nobody else can ask. The port is free in Prometheus' list of exporters.
const defaultListen = "127.0.0.1:9947"

// Monitor declares the verb monitor, which run carries out.
func Monitor(run func(*cobra.Command, *MonitorOptions) error) *cobra.Command {
	o := &MonitorOptions{}
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "A page and metrics of all devices of this host",
		Long: `Serve a page for browsers at /, with all devices of this host and what to do
next, and metrics for Prometheus at /metrics, until interrupted. One monitor
serves a host. It only reads: no request changes anything. Without --listen only
this host reaches it.

--web-config names a file of Prometheus' exporter-toolkit, with a certificate
and users. Without one, anybody who reaches the address can read.

Besides, it tells of what happens to the devices, in the journal, by mail and by
other ways: see alerts, and /etc/ublk-remap/monitor.conf. --no-alerts leaves
that out; the page still says what the alerts would.

--textfile writes the metrics to a file of this directory once, for the textfile
collector of node_exporter, and ends.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Textfile != "" && (cmd.Flags().Changed("listen") || o.WebConfig != "") {
				return fmt.Errorf("--textfile with --listen or --web-config: %w: choose one",
					exit.ErrUsage)
			}
			return run(cmd, o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Listen, "listen", []string{defaultListen}, "`ADDRESS` to listen on; may "+
		"be given several times")
	f.StringVar(&o.WebConfig, "web-config", "",
		"`FILE` with certificates and users, of exporter-toolkit")
	f.StringVar(&o.Textfile, "textfile", "", "write ublk_remap.prom to `DIR` once")
	f.BoolVar(&o.NoAlerts, "no-alerts", false, "tell of nothing by mail, journal and hooks")
	return cmd
}
