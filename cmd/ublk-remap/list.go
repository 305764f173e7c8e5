package main

import (
	"errors"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/ublk"
)

func listCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the devices that run here",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			records, err := a.running()
			if err != nil {
				return err
			}
			items := []control.Item{}
			rows := [][]string{{"DEVICE", "NAME", "STATE", "SIZE", "BACKING"}}
			all, err := statusesOf(cmd.Context(), records, askAll)
			if err != nil {
				return err
			}
			for _, st := range all {
				items = append(items, control.Item{
					Device: st.Device, ID: st.ID, Name: st.Name, UUID: st.UUID, State: st.State,
					Backing: st.Backing, ServerPID: st.ServerPID,
				})
				rows = append(rows, []string{st.Device, st.Name, string(st.State),
					sizeText(int64(st.SizeBlocks) * int64(st.BlockSize)), st.Backing})
			}
			orphans, err := findOrphans(cmd.Context())
			if err := a.notLooked(err); err != nil {
				return err
			}
			for _, o := range orphans {
				it := itemOf(o)
				items = append(items, it)
				rows = append(rows, []string{it.Device, orDash(it.Name), string(it.State),
					sizeText(o.Size), orDash(it.Backing)})
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

// notLooked passes an error of findOrphans on, unless it is that nobody may ask the driver:
// devices that their servers tell of are seen all the same.
func (a *app) notLooked(err error) error {
	var forbidden *ublk.RingForbiddenError
	if errors.As(err, &forbidden) {
		a.tell("ublk-remap: other devices than these could not be looked for: %s\n",
			exit.Line(forbidden))
		return nil
	}
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
