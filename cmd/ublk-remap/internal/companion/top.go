package companion

import "github.com/spf13/cobra"

// Top declares the verb top, which run carries out.
func Top(run func(*cobra.Command) error) *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Watch all devices of this host in a terminal",
		Long: `Show the devices of this host in a terminal, kept up to date: a list with rates,
and for one of them its state in words, what to do next, a map of the disk's
surface, and what happens to it. It only reads. A server that does not answer
does not hold it up.

On the map each place is a letter, a colour or both: X lost, P pending, S slow
to read, R remapped, M metadata, + spare units, D data that gave way to
metadata, what a scrub has read (-) and what it has not (.). What is under the
cursor is said in words.

Keys: tab, or a click, chooses a device; a chooses the next one that needs
attention; arrows or the mouse move the cursor; +, - or the wheel zoom, down to
single blocks; 0 shows the whole disk; n and N go to the next bad place and
back; m draws letters only; ? is help; q ends it.

Half-blocks in colour draw the map. With NO_COLOR, in a locale without UTF-8 and
on the console of Linux letters do, and all else is ASCII. A window smaller than
40x16 has no map.

It needs a terminal; for scripts there is status --json.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd) },
	}
}
