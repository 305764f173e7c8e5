package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/prepare"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

type releaseOptions struct {
	spares             []string
	force, dryRun, yes bool
	acceptOld          bool
}

// released is what release prints.
type released struct {
	Name      string `json:"name"`
	UUID      string `json:"uuid"`
	Backing   string `json:"backing"`
	SizeBytes int64  `json:"size_bytes"` // of what was exported
	// Blocks of the spare region that go home, blocks of the head that go to the front, blocks that
	// cannot be read at home before and after.
	MovedBlocks uint64 `json:"moved_blocks"`
	HeadBlocks  uint64 `json:"head_blocks"`
	Pending     uint64 `json:"pending"`
	// Blocks that do not hold the exported data.
	NoCopy []metadata.BlockRange `json:"no_copy"`
	// Blocks that hold what their home held before they left it.
	Old     []metadata.BlockRange `json:"old"`
	BadHome []metadata.BlockRange `json:"bad_home"`
	// How many more such blocks there are. They were too many to list.
	Unlisted uint64 `json:"unlisted"`
	Resumed  bool   `json:"resumed"` // continued an interrupted release
	DryRun   bool   `json:"dry_run"`
}

func releaseCommand(a *app) *cobra.Command {
	var o releaseOptions
	cmd := &cobra.Command{
		Use:   "release BACKING",
		Short: "Give a disk back: move all data home and remove the metadata",
		Long: `Move all data to where it belongs and remove the metadata. Afterwards the disk
is a plain one that holds what the device showed, at the same offsets. The
device must be stopped.

Blocks whose home is still bad cannot go home, nor can blocks without a copy
that reads. If there are any they are listed, and the disk is not released. With
--force it is released anyway, and those blocks then read as errors, as
zeroes or as what was there once.

--accept-old is for blocks without a copy: it takes what home held when they
left it, if that reads several times. What was written to them since is lost,
and nothing tells whether there was any.

Run a release that was interrupted again to finish it. It also undoes a create
--in-place that was interrupted.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := diskOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return release(cmd.Context(), a, path, o)
		},
	}
	f := cmd.Flags()
	spareFlag(cmd, &o.spares)
	f.BoolVar(&o.acceptOld, "accept-old", false, "take what home holds for blocks without a copy "+
		"that reads: what was written to them since they left it is lost")
	f.BoolVar(&o.force, "force", false, "give up blocks that cannot go home")
	dryRunFlag(cmd, &o.dryRun)
	yesFlag(cmd, &o.yes)
	a.jsonFlag(cmd)
	return cmd
}

func release(ctx context.Context, a *app, path string, o releaseOptions) error {
	devs, err := host.OpenToRelease(ctx, path, o.spares, o.dryRun)
	if err != nil {
		return err
	}
	defer devs.Close()
	backing := devs.Devices[0]
	if err := host.NotAwaited(path, backing); err != nil {
		return err
	}
	for _, d := range devs.Devices {
		if err := host.NotServed(d); err != nil {
			return err
		}
	}
	all := devs.Metadata()
	sb, order, err := metadata.Interrupted(all[0], all[1:])
	if err != nil {
		return spareAdvice(path, err)
	}
	if sb != nil {
		out, err := a.finishRelease(path, backing, order, sb, o)
		if err != nil {
			return err
		}
		if !o.dryRun {
			a.rescan(devs.Devices...)
		}
		return a.printReleased(out)
	}
	img, err := metadata.Load(all)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out, err := a.surveyRelease(path, backing, img, o)
	if err != nil {
		return err
	}
	if !o.dryRun {
		if !o.yes {
			if err := a.confirm(out.question(o.force)); err != nil {
				return err
			}
		}
		if err := a.runRelease(path, img, o, &out); err != nil {
			return err
		}
		a.rescan(devs.Devices...)
	}
	return a.printReleased(out)
}

// surveyRelease finds out what must be moved. The error is metadata.ErrStuck if something cannot be
// moved and is not given up.
func (a *app) surveyRelease(path string, backing *blockdev.Device, img *metadata.Image,
	o releaseOptions) (released, error) {
	was := img.Layout().Superblock()
	out := newReleased(&was, backing)
	opts, end := a.moveOptions("reading what is to be moved")
	opts.AcceptOld = o.acceptOld
	survey, err := metadata.SurveyRevert(img, opts)
	end()
	if err != nil {
		return out, fmt.Errorf("%s: %w", path, err)
	}
	out.MovedBlocks, out.HeadBlocks, out.Pending = survey.Moves, survey.Head, survey.Pending
	out.NoCopy, out.Unlisted, out.DryRun = ranges(survey.NoCopy), survey.More, o.dryRun
	if o.acceptOld {
		out.Old = ranges(survey.Old)
	}
	if len(survey.NoCopy) > 0 && !o.force {
		return out, stuck(path, metadata.Stuck(survey, o.acceptOld))
	}
	return out, nil
}

// runRelease moves all data home, and notes the result in out.
func (a *app) runRelease(path string, img *metadata.Image, o releaseOptions, out *released) error {
	view, err := metadata.NewView(img)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	opts, end := a.moveOptions("moving the head")
	opts.Force, opts.AcceptOld = o.force, o.acceptOld
	opts.Mark = prepare.MarkOf(blockdev.Detect(view, view.Size()).Signatures)
	done, err := metadata.Revert(img, opts)
	end()
	if err != nil {
		return stuck(path, err)
	}
	out.done(&done)
	return nil
}

// finishRelease continues whatever was interrupted.
func (a *app) finishRelease(path string, backing *blockdev.Device, devs []metadata.Device,
	sb *metadata.Superblock, o releaseOptions) (released, error) {
	out := newReleased(sb, backing)
	out.Resumed, out.DryRun = true, o.dryRun
	if o.dryRun {
		return out, nil
	}
	opts, end := a.moveOptions("moving the head")
	defer end()
	opts.Force = o.force
	var done metadata.Reverted
	var err error
	switch sb.Transition {
	case metadata.TransitionCopied:
		err = metadata.UndoConvert(devs, sb, o.force)
	case metadata.TransitionConverting:
		done, err = metadata.RevertConverting(devs, sb, opts)
	default:
		done, err = metadata.ResumeRevert(devs, sb, opts)
	}
	if err != nil {
		return out, stuck(path, err)
	}
	out.done(&done)
	return out, nil
}

// stuck adds to an error what can be done about blocks that cannot go home.
func stuck(path string, err error) error {
	if errors.Is(err, metadata.ErrStuck) {
		return fmt.Errorf("%s: %w; write to those blocks first, use the disk on with: %s, or "+
			"give them up with --force --yes", path, err, shell.Command("start", path))
	}
	return fmt.Errorf("%s: %w", path, err)
}

func newReleased(sb *metadata.Superblock, backing *blockdev.Device) released {
	return released{
		Name: sb.Name, UUID: sb.UUID.String(), Backing: backing.Path(), SizeBytes: sb.ExportedBytes,
		HeadBlocks: uint64(sb.HeadBytes) / uint64(sb.BlockSize), NoCopy: ranges(nil),
		BadHome: ranges(nil), Old: ranges(nil),
	}
}

func (r *released) done(d *metadata.Reverted) {
	r.MovedBlocks = max(d.Moved, r.MovedBlocks)
	if r.Resumed {
		r.MovedBlocks = d.Moved
	}
	r.NoCopy, r.BadHome, r.Unlisted = ranges(d.Left.NoCopy), ranges(d.Left.BadHome),
		d.Left.NoCopyMore+d.Left.BadHomeMore
	r.Old = ranges(d.Old)
}

// ranges returns a list that prints as a list even if it is empty.
func ranges(l []metadata.BlockRange) []metadata.BlockRange {
	if l == nil {
		return []metadata.BlockRange{}
	}
	return l
}

func (r *released) question(force bool) string {
	q := fmt.Sprintf("This moves %s blocks home, and makes a plain disk of %s; what %q remembers "+
		"is erased", readable.Number(r.MovedBlocks), r.Backing, r.Name)
	if len(r.NoCopy) > 0 {
		q += fmt.Sprintf("; %s have no copy, and will read as zeroes, as errors, or as what was "+
			"there once", blocksText(r.NoCopy))
	}
	if len(r.Old) > 0 {
		q += fmt.Sprintf("; %s will hold what their home held before they left it",
			blocksText(r.Old))
	}
	if force {
		q += "; blocks whose home is still bad are given up"
	}
	return q + "."
}

func blocksText(l []metadata.BlockRange) string {
	var n uint64
	var some []string
	for i, r := range l {
		n += r.Count
		switch {
		case i == 8:
			some = append(some, "…")
		case i < 8 && r.Count > 1:
			some = append(some, fmt.Sprintf("%d+%d", r.Block, r.Count))
		case i < 8:
			some = append(some, fmt.Sprint(r.Block))
		}
	}
	return fmt.Sprintf("%s blocks (%s)", readable.Number(n), strings.Join(some, ", "))
}

func (a *app) printReleased(r released) error {
	if a.json {
		return a.printJSON(r)
	}
	verb := "is a plain disk now"
	switch {
	case r.DryRun && r.Resumed:
		verb = "is half way; it would become a plain disk"
	case r.DryRun:
		verb = "would become a plain disk"
	case r.Resumed:
		verb = "is a plain disk now; what was interrupted is finished"
	}
	rows := [][]string{
		{r.Backing, verb},
		{"holds", fmt.Sprintf("what %s showed: %s", r.Name, readable.Bytes(r.SizeBytes))},
		{"moved home", fmt.Sprintf("%s blocks, and the first %s", readable.Number(r.MovedBlocks),
			readable.Number(r.HeadBlocks))},
	}
	if r.Pending > 0 {
		rows = append(rows, []string{"pending", readable.Number(r.Pending) +
			" blocks: what did not read before does not read afterwards"})
	}
	if len(r.NoCopy) > 0 {
		rows = append(rows, []string{"without a copy", blocksText(r.NoCopy) +
			"; they read as zeroes, as errors, or as what was there once"})
	}
	if r.Unlisted > 0 {
		rows = append(rows, []string{"besides", readable.Number(r.Unlisted) +
			" such blocks, in more " +
			"places than can be listed"})
	}
	if len(r.Old) > 0 {
		rows = append(rows, []string{"old", blocksText(r.Old) + "; they hold what their home " +
			"held before they left it"})
	}
	if len(r.BadHome) > 0 {
		rows = append(rows, []string{"bad", blocksText(r.BadHome) +
			"; their data could not go home"})
	}
	return a.table(rows)
}
