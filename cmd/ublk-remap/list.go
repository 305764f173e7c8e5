package main

import (
	"cmp"
	"errors"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/ublk"
)

func listCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the devices that run here",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.host().Status(cmd.Context())
			if err := a.allowPartial(err); err != nil {
				return err
			}
			items := []control.Item{}
			rows := [][]string{{"DEVICE", "NAME", "STATE", "SIZE", "BACKING"}}
			for _, st := range all {
				items = append(items, control.Item{
					Device: st.Device, ID: st.ID, Name: st.Name, UUID: st.UUID, State: st.State,
					Backing: st.Backing, ServerPID: st.ServerPID,
				})
				rows = append(rows, []string{st.Device, cmp.Or(st.Name, "-"), string(st.State),
					readable.Bytes(int64(st.SizeBlocks) * int64(st.BlockSize)),
					cmp.Or(st.Backing, "-")})
			}
			if a.json {
				return a.printJSON(items)
			}
			if len(items) == 0 {
				return nil
			}
			return a.table(rows)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// allowPartial returns an error of host.Status, unless the error is that the driver may not be
// asked. Devices that have records are listed in that case too.
func (a *app) allowPartial(err error) error {
	var forbidden *ublk.RingForbiddenError
	if errors.As(err, &forbidden) {
		a.tell("ublk-remap: other devices than these could not be looked for: %s\n",
			exit.Line(forbidden))
		return nil
	}
	return err
}
