package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

type repairOptions struct {
	spares             []string
	search, acceptLoss bool
	dryRun, yes        bool
	force              bool // of restore
}

// mended is what repair and restore print.
type mended struct {
	Before *metadata.Report `json:"before"` // what was found; null after restore
	Steps  []string         `json:"steps"`  // what was done, or would be done
	Risks  []string         `json:"risks"`  // why the table may not be the newest one
	After  *metadata.Report `json:"after"`  // what there is now; null if nothing was done
	DryRun bool             `json:"dry_run"`
}

func metadataRepairCommand(a *app) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair BACKING",
		Short: "Make every copy of the metadata whole again",
		Long: `Find everything that is wrong with the metadata, say what is to be done about
it, and do it: superblocks, mirrors and checkpoints are written anew from what
is intact. Nothing is guessed: where information is missing the exit code is 6,
and a backup must be restored. A power cut during the repair does no harm; run
it again. The disk must not be served meanwhile.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := diskOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return repair(cmd.Context(), a, path, o)
		},
	}
	f := cmd.Flags()
	spareFlag(cmd, &o.spares)
	f.BoolVar(&o.search, "search", false, "search the whole disk for a superblock, if none is "+
		"where it should be")
	f.BoolVar(&o.acceptLoss, "accept-loss", false, "go on with what is left, although changes "+
		"are missing; says which")
	dryRunFlag(cmd, &o.dryRun)
	yesFlag(cmd, &o.yes)
	a.jsonFlag(cmd)
	return cmd
}

func repair(ctx context.Context, a *app, path string, o repairOptions) error {
	s, err := host.OpenToRepair(ctx, path, o.spares, nil, o.dryRun)
	if err != nil {
		return err
	}
	defer func() { s.Close() }()
	var w watch
	defer w.end()
	w.begin(a, "reading the metadata of "+path, 0)
	plan, err := metadata.PlanRepair(w.of(s), nil)
	if err != nil && s.Superblock == nil && o.search {
		w.end()
		found, searchErr := searchSuperblock(ctx, a, s)
		if searchErr != nil {
			return fmt.Errorf("%s: %w", path, searchErr)
		}
		// The superblock that was found also names the spare devices.
		if err := s.Close(); err != nil {
			return err
		}
		next, openErr := host.OpenToRepair(ctx, path, o.spares, found, o.dryRun)
		if openErr != nil {
			return openErr
		}
		s = next
		plan, err = metadata.PlanRepair(w.of(s), found)
	}
	w.end()
	if o.acceptLoss && errors.Is(err, metadata.ErrDamaged) {
		return salvage(ctx, a, path, s, o)
	}
	out := mended{Before: &plan.Before, Steps: plan.Steps, Risks: []string{}, DryRun: o.dryRun}
	if err != nil {
		if outErr := a.printMended(&out); outErr != nil {
			return outErr
		}
		return fmt.Errorf("%s: %w", path, notRepaired(path, s, err))
	}
	for _, d := range s.Devices {
		if err := otherUse(d, "erase that mark (wipefs) and repeat"); err != nil {
			return err
		}
	}
	if len(plan.Steps) == 0 || o.dryRun {
		return a.printMended(&out)
	}
	if err := a.agree(&out, o.yes, "This repairs the metadata of "+path+"."); err != nil {
		return err
	}
	opts, err := runOptions()
	if err != nil {
		return err
	}
	w.write(a, "writing the metadata of "+path)
	after, err := plan.Run(opts)
	w.end()
	return a.finish(path, &out, after, err)
}

// notRepaired adds to the error of a plan what to do about it.
func notRepaired(path string, s *set.Set, err error) error {
	restore := shell.Command("metadata", "restore", path) + " FILE"
	switch {
	case s.Superblock == nil && errors.Is(err, metadata.ErrNotFound):
		return fmt.Errorf("%w; if this disk was copied to one of another size its superblock "+
			"may lie elsewhere: add --search; else restore a backup with: %s", err, restore)
	case errors.Is(err, metadata.ErrDamaged):
		return fmt.Errorf("%w; nothing was changed; what to do: %s, or if there is no backup, "+
			"see --accept-loss", err, restore)
	}
	return err
}

// searchSuperblock reads the whole backing to find a superblock.
func searchSuperblock(ctx context.Context, a *app, s *set.Set) (*metadata.Superblock, error) {
	d := s.Devices[0]
	bar := a.progress("searching for a superblock")
	defer bar.End()
	return metadata.SearchSuperblock(d, func(left int64) error {
		bar.Set(d.Size()-left, d.Size())
		return ctx.Err()
	})
}

// salvage is a repair that leaves out what is missing.
func salvage(ctx context.Context, a *app, path string, s *set.Set, o repairOptions) error {
	var w watch
	defer w.end()
	w.begin(a, "reading the metadata of "+path, 0)
	plan, err := metadata.PlanSalvage(w.of(s))
	w.end()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	o.force = true
	return runRestore(ctx, a, path, s, plan, &w, o)
}

// agree says what will be done and asks for confirmation.
func (a *app) agree(m *mended, yes bool, what string) error {
	if yes {
		return nil
	}
	if !a.json {
		if err := a.printMended(m); err != nil {
			return err
		}
	}
	for _, r := range m.Risks {
		what += " Risk: " + r + "."
	}
	return a.confirm(what)
}

// finish prints the result.
func (a *app) finish(path string, m *mended, after metadata.Report, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w; it can be repeated", path, err)
	}
	m.After = &after
	if err := a.printMended(m); err != nil {
		return err
	}
	return leftOver(path, &after)
}

func (a *app) printMended(m *mended) error {
	if a.json {
		return a.printJSON(m)
	}
	var b strings.Builder
	if m.Before != nil && m.After == nil {
		b.WriteString(m.Before.String())
	}
	will := "did: "
	if m.After == nil {
		will = "will: "
	}
	if m.DryRun {
		will = "would: "
	}
	for _, s := range m.Steps {
		b.WriteString(will + s + "\n")
	}
	for _, r := range m.Risks {
		b.WriteString("risk: " + r + "\n")
	}
	if m.After != nil {
		b.WriteString(m.After.String())
	}
	_, err := fmt.Fprint(a.out, readable.Lines(b.String()))
	return err
}

// runRestore carries out a plan of restore.
func runRestore(ctx context.Context, a *app, path string, s *set.Set, plan *metadata.Restore,
	w *watch, o repairOptions) error {
	out := mended{Steps: plan.Steps, Risks: plan.Risks, DryRun: o.dryRun}
	for _, d := range s.Devices {
		if err := otherUse(d, "add --force"); err != nil && (!o.force || o.acceptLoss) {
			return err
		}
	}
	if len(plan.Steps) == 0 {
		return a.nothingToRestore(path, &out)
	}
	if o.dryRun {
		if err := a.printMended(&out); err != nil {
			return err
		}
	}
	if len(plan.Risks) > 0 && !o.force {
		return fmt.Errorf("%s: %w: %s; if that is to be accepted add --force and --yes", path,
			exit.ErrRefused, strings.Join(plan.Risks, "; "))
	}
	if o.dryRun {
		return nil
	}
	if err := a.agree(&out, o.yes, "This writes the metadata of "+path+" anew."); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	opts, err := runOptions()
	if err != nil {
		return err
	}
	w.write(a, "writing the metadata of "+path+" anew")
	after, err := plan.Run(opts)
	w.end()
	return a.finish(path, &out, after, err)
}

// nothingToRestore says that a disk needs nothing of a backup.
func (a *app) nothingToRestore(path string, out *mended) error {
	if a.json {
		return a.printMended(out)
	}
	_, err := fmt.Fprintf(a.out, "%s: nothing to restore: the disk has all that the backup has; "+
		"see: %s\n", readable.Text(path), shell.Command("metadata", "check", path))
	return err
}
