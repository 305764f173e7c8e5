package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/prepare"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// convert is create --in-place: the disk keeps its data.
func convert(ctx context.Context, a *app, devs []*blockdev.Device, o createOptions) error {
	backing := devs[0]
	if o.badblocks != "" {
		return fmt.Errorf("--badblocks with --in-place: %w: what still reads is to go on "+
			"reading; after start, name bad blocks to: ublk-remap remap add", exit.ErrUsage)
	}
	sb, order, err := metadata.Interrupted(backing, asMetadata(devs[1:]))
	if err != nil {
		return spareAdvice(backing.Path(), err)
	}
	if sb != nil {
		if finish, err := a.undoConvert(backing, order, sb, o); err != nil {
			return err
		} else if finish {
			return a.resumeConvert(devs, order, sb, o)
		}
	}
	if o.fromDMRemap != "" {
		if o.taken, err = a.takenFrom(ctx, devs, o.fromDMRemap); err != nil {
			return err
		}
	}
	p, err := a.planConvert(devs, o)
	if err != nil {
		return err
	}
	out := describe(devs, p.Plan(), o)
	kept, mark, err := prepare.Kept(backing, p.Plan(), o.force)
	if err != nil {
		return err
	}
	out.InPlace, out.Kept = true, kept
	if len(devs) > 1 {
		if out.Replaced, err = prepare.Inspect(devs[1]); err != nil && !o.force {
			return err
		}
	}
	if !o.dryRun {
		if err := a.confirmConvert(&out, o); err != nil {
			return err
		}
	}
	if err := p.SampleSpares(ctx); err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", backing.Path(), err)
	}
	if !o.dryRun {
		if err := a.runConvert(devs, p.Plan(), mark, o.taken, &out); err != nil {
			return err
		}
	}
	return a.printCreated(out)
}

// undoConvert undoes a conversion that was interrupted early, so that it can begin again with the
// current flags. finish says that the conversion was interrupted late, and must be finished
// instead.
func (a *app) undoConvert(backing *blockdev.Device, order []metadata.Device,
	sb *metadata.Superblock, o createOptions) (finish bool, err error) {
	switch {
	case sb.Transition == metadata.TransitionConverting:
		return true, nil
	case sb.Transition != metadata.TransitionCopied:
		return false, fmt.Errorf("%s: %w: %q is being given back; finish that first with: "+
			"ublk-remap release", backing.Path(), metadata.ErrUnfinished, sb.Name)
	case o.dryRun:
		return false, fmt.Errorf("%s: %w: an earlier conversion was interrupted, nothing can be "+
			"said before it is undone: run it without --dry-run, or undo it with: "+
			"ublk-remap release", backing.Path(), exit.ErrRefused)
	}
	if err := metadata.UndoConvert(order, sb, o.force); err != nil {
		return false, fmt.Errorf("%s: undoing an earlier conversion that was interrupted: %w",
			backing.Path(), err)
	}
	a.log.Info().Msg("undid an earlier conversion that was interrupted")
	return false, nil
}

// planConvert lays out the set. The disk's blocks must stay where they are.
func (a *app) planConvert(devs []*blockdev.Device,
	o createOptions) (*prepare.Preparation, error) {
	p, err := a.planSet(devs, o)
	if err != nil {
		return nil, err
	}
	if logical := devs[0].Geometry().LogicalBlock; p.Plan().BlockSize() != logical {
		return nil, fmt.Errorf("%s: %w: its blocks have %d bytes, those of the spare device %d; "+
			"what is on it relies on the former", devs[0].Path(), exit.ErrRefused, logical,
			p.Plan().BlockSize())
	}
	return p, nil
}

// runConvert makes the set, and notes in out what it found.
func (a *app) runConvert(devs []*blockdev.Device, plan *metadata.Layout, mark int64,
	taken []metadata.Taken, out *created) error {
	if len(out.Replaced) > 0 {
		prepare.ZeroEnds(devs[1])
	}
	opts, end := a.moveOptions("copying the head")
	opts.Mark, opts.Taken = mark, taken
	done, err := metadata.Convert(asMetadata(devs), plan, opts)
	end()
	a.tellBadPlaces(devs, done.Bad, out, err == nil)
	if err != nil {
		return fmt.Errorf("%s: %w; run it again, or undo it with: ublk-remap release",
			devs[0].Path(), err)
	}
	out.Lost, out.Moved = done.Lost, done.Mapped
	out.Taken, out.Untaken = done.Taken, done.Untaken
	a.rescan(devs...)
	return nil
}

// confirmConvert asks for confirmation, unless nothing can be lost.
func (a *app) confirmConvert(out *created, o createOptions) error {
	if blank := len(out.Kept)+len(out.Replaced) == 0 && !o.force; o.yes || blank {
		return nil
	}
	return a.confirm(out.question())
}

// resumeConvert finishes a conversion that was interrupted late.
func (a *app) resumeConvert(devs []*blockdev.Device, order []metadata.Device,
	sb *metadata.Superblock, o createOptions) error {
	var spares int64
	for _, r := range sb.Regions {
		if r.Kind == metadata.RegionSpare {
			spares += r.Length
		}
	}
	// The same command finishes what it began. A different command means something else.
	same := o.name == "" || o.name == sb.Name
	if o.spare != "" {
		n, err := size.Parse(o.spare)
		if err != nil {
			return fmt.Errorf("--spare %w", err)
		}
		same = same && n.Of(devs[0].Size(), metadata.UnitSize) == spares
	}
	if !same {
		return fmt.Errorf("%s: %w: the conversion of %q with %d bytes of spare space was "+
			"interrupted when most was done; finish it without --spare and --name", devs[0].Path(),
			exit.ErrUsage, sb.Name, spares)
	}
	if !o.dryRun {
		opts, end := a.moveOptions("copying the head")
		err := metadata.ResumeConvert(order, sb, opts)
		end()
		if err != nil {
			return fmt.Errorf("%s: %w", devs[0].Path(), err)
		}
		a.rescan(devs...)
	}
	out := created{
		Name: sb.Name, UUID: sb.UUID.String(), Backing: devs[0].Path(),
		BlockSize: int(sb.BlockSize), SizeBlocks: uint64(sb.ExportedBytes) / uint64(sb.BlockSize),
		SizeBytes: sb.ExportedBytes, SpareUnits: uint64(spares) / metadata.UnitSize,
		SpareBytes: spares, HeadBytes: sb.HeadBytes,
		BadPlaces: []string{}, Replaced: []string{}, Kept: []string{}, InPlace: true, Resumed: true,
		DryRun: o.dryRun,
	}
	if len(devs) > 1 {
		out.SpareDevice = devs[1].Path()
	}
	return a.printCreated(out)
}

// question returns what is asked before a disk is converted.
func (c *created) question() string {
	what := "what is on it, which is not recognized,"
	if len(c.Kept) > 0 {
		what = strings.Join(c.Kept, ", and ")
	}
	q := fmt.Sprintf("This converts %s in place: %s stays as it is", c.Backing, what)
	if c.SpareDevice == "" {
		q += fmt.Sprintf("; all bytes from %d on are used and lost", c.SizeBytes)
	} else {
		q += fmt.Sprintf("; its first %s move to %s", readable.Bytes(c.HeadBytes), c.SpareDevice)
	}
	if len(c.Replaced) > 0 {
		q += "; this destroys " + strings.Join(c.Replaced, ", and ")
	}
	return q + "."
}

// asMetadata returns the devices in the form that package metadata takes.
func asMetadata(devs []*blockdev.Device) []metadata.Device {
	out := make([]metadata.Device, len(devs))
	for i, d := range devs {
		out[i] = d
	}
	return out
}

// spareAdvice adds to an error what to do about a missing spare device.
func spareAdvice(path string, err error) error {
	if errors.Is(err, metadata.ErrNotFound) {
		return fmt.Errorf("%s: %w; name it with --spare-device", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// moveOptions returns the options of a long copy, which reports its progress. The caller must call
// end when the copy is over.
func (a *app) moveOptions(what string) (o metadata.ConvertOptions, end func()) {
	o = metadata.ConvertOptions{Now: metadata.Seconds(time.Now()), Session: rand.Uint64()}
	var bar *progress.Bar
	end = func() {
		if bar != nil {
			bar.End()
			bar = nil
		}
	}
	o.Progress = func(done, total int64) {
		if bar == nil {
			bar = a.progress(what)
		}
		if bar.Set(done, total); done >= total {
			end()
		}
	}
	return o, end
}

// rescan makes the kernel read the partition tables of disks again. Old partitions must not be used
// beneath a set, and must exist on a plain disk.
func (a *app) rescan(devs ...*blockdev.Device) {
	for _, d := range devs {
		if err := d.Rescan(); err != nil {
			a.log.Warn().Err(err).Str("device", d.Path()).Msg("the kernel may go by an old " +
				"partition table; see blockdev --rereadpt")
		}
	}
}
