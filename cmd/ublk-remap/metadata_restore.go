package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ublkremap/internal/host"
	"ublkremap/metadata"
)

func metadataRestoreCommand(a *app) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "restore BACKING FILE|-",
		Short: "Write the metadata of a disk from a backup or a dump",
		Long: `Write the metadata of a disk anew from a backup, and from what the disk itself
still has: a backup is enough to lose nothing if all changes since are in the
disk's logs. FILE may be what "metadata dump" printed: a dump of a set that
loaded is as good as a backup.

Refused (exit code 3): a backup of another set, one that is older than metadata
in order, and one of which it is not certain that nothing newer is missing,
unless --force says that this is accepted. Exit code 6: a file that is no whole
backup or dump. A power cut during the restore does no harm; run it again. FILE
may be - for standard input.`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return restore(cmd.Context(), a, args[0], args[1], o)
		},
	}
	f := cmd.Flags()
	spareFlag(cmd, &o.spares)
	f.BoolVar(&o.force, "force", false, "accept the risks that it tells of")
	dryRunFlag(cmd, &o.dryRun)
	yesFlag(cmd, &o.yes)
	a.jsonFlag(cmd)
	return cmd
}

func restore(ctx context.Context, a *app, path, file string, o repairOptions) error {
	b, err := a.readBackup(file)
	if err != nil {
		return err
	}
	if path, err = diskOf(ctx, path); err != nil {
		return err
	}
	s, err := host.OpenToRepair(ctx, path, o.spares, b.Superblock, o.dryRun)
	if err != nil {
		return err
	}
	defer s.Close()
	w := watch{backup: b.Bytes()}
	defer w.end()
	w.begin(a, "reading the metadata of "+path, 0)
	plan, err := metadata.PlanRestore(w.of(s), b)
	w.end()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return runRestore(ctx, a, path, s, plan, &w, o)
}

func (a *app) readBackup(file string) (*metadata.Backup, error) {
	var b *metadata.Backup
	err := a.readInput(file, func(in io.Reader, name string) (err error) {
		if b, err = metadata.ReadBackup(in); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return err
	})
	return b, err
}
