package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ublkremap/internal/control"
)

func resumeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume DEV|NAME",
		Short: "Close the breaker: remap bad blocks again",
		Long: `Close the breaker after it tripped. Do so when the cause is mended: a cable, a
power supply, a controller. Blocks whose last change may or may not have reached
the disk are settled first. The error recovery limits of the drives are set
again in any case, since a drive that was without power has forgotten them.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			a.limitDrivesAgain(cmd.Context(), r) // needed even if the breaker is not open
			c := control.NewClient(r.Name)
			if err := c.Resume(cmd.Context()); err != nil {
				return fmt.Errorf("%s: %w", r.Device, err)
			}
			if !a.json {
				return nil
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return a.printJSON(st.Breaker)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
