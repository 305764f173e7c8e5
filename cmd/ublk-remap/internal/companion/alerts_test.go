package companion

import (
	"errors"
	"testing"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// TestAcknowledgeNobody: an empty name, as of a variable that is not set, does not mean all.
func TestAcknowledgeNobody(t *testing.T) {
	asked := 0
	run := AlertsRun{Acknowledge: func(*cobra.Command, string, []string) error {
		asked++
		return nil
	}}
	for _, c := range []struct {
		args []string
		want error
		runs int
	}{{[]string{"ack", ""}, exit.ErrUsage, 0}, {[]string{"ack", "media"}, nil, 1},
		{[]string{"ack", "--all"}, nil, 2}} {
		cmd := Alerts(run, cobra.RangeArgs)
		cmd.SetArgs(c.args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.Execute(); !errors.Is(err, c.want) || asked != c.runs {
			t.Errorf("%q: %v, asked %d times", c.args, err, asked)
		}
	}
}
