package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// takeOver is create --in-place: the disk keeps its data.
func takeOver(a *app, devs []*blockdev.Device, o createOptions) error {
	backing := devs[0]
	if o.badblocks != "" {
		return fmt.Errorf("--badblocks with --in-place: %w: what still reads is to go on "+
			"reading; after start, name bad blocks to: ublk-remap remap add", exit.ErrUsage)
	}
	opts, end := a.moveOptions("copying the head")
	defer end()
	sb, set, err := metadata.Interrupted(backing, asMetadata(devs[1:]))
	if err != nil {
		return spareAdvice(backing.Path(), err)
	}
	if sb != nil {
		switch sb.Transition {
		case metadata.TransitionCopied:
			// Nothing of it counts yet: it is done anew, as it is asked for now.
			if o.dryRun {
				return fmt.Errorf("%s: %w: an earlier takeover was interrupted, nothing can be "+
					"said before it is undone: run it without --dry-run, or undo it with: "+
					"ublk-remap release", backing.Path(), exit.ErrRefused)
			}
			if err := metadata.UndoConvert(set, sb, o.force); err != nil {
				return fmt.Errorf("%s: undoing an earlier takeover that was interrupted: %w",
					backing.Path(), err)
			}
			a.log.Info().Msg("undid an earlier takeover that was interrupted")
		case metadata.TransitionConverting:
			return a.resumeTakeOver(devs, set, sb, opts, o)
		default:
			return fmt.Errorf("%s: %w: %q is being given back; finish that first with: "+
				"ublk-remap release", backing.Path(), metadata.ErrUnfinished, sb.Name)
		}
	}
	plan, err := planSet(devs, o)
	if err != nil {
		return err
	}
	if logical := backing.Geometry().LogicalBlock; plan.BlockSize() != logical {
		return fmt.Errorf("%s: %w: its blocks have %d bytes, those of the spare device %d; what "+
			"is on it relies on the former", backing.Path(), exit.ErrRefused, logical,
			plan.BlockSize())
	}
	kept, mark, err := judge(backing, plan, o)
	if err != nil {
		return err
	}
	opts.Mark = mark
	out := describe(devs, plan, o)
	out.InPlace, out.Kept = true, kept
	if len(devs) > 1 {
		if out.Replaced, err = inspect(devs[1]); err != nil && !o.force {
			return err
		}
	}
	if !o.dryRun {
		if err := a.confirmTakeOver(&out, o); err != nil {
			return err
		}
	}
	// Where the disk has data nothing is written; the spare region must be free of it.
	p := &preparation{a: a, devs: devs, plan: plan}
	p.attach(o.dryRun, nil)
	if err := p.sampleSpares(a.ctx, o.dryRun); err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", backing.Path(), err)
	}
	if o.dryRun {
		return a.printCreated(out)
	}
	if len(out.Replaced) > 0 {
		zeroEnds(devs[1], metadata.AlignedBytes(1<<20))
	}
	taken, err := metadata.Convert(asMetadata(devs), plan, opts)
	end()
	a.tellBadPlaces(devs, taken.Bad, &out, err == nil)
	if err != nil {
		return fmt.Errorf("%s: %w; run it again, or undo it with: ublk-remap release",
			backing.Path(), err)
	}
	out.Lost, out.Moved = taken.Lost, taken.Mapped
	a.rescan(backing)
	return a.printCreated(out)
}

// confirmTakeOver asks, unless there is nothing to be lost.
func (a *app) confirmTakeOver(out *created, o createOptions) error {
	if blank := len(out.Kept)+len(out.Replaced) == 0 && !o.force; o.yes || blank {
		return nil
	}
	return a.confirm(out.question())
}

func (a *app) resumeTakeOver(devs []*blockdev.Device, set []metadata.Device,
	sb *metadata.Superblock, opts metadata.ConvertOptions, o createOptions) error {
	var spares int64
	for _, r := range sb.Regions {
		if r.Kind == metadata.RegionSpare {
			spares += r.Length
		}
	}
	// The same command finishes what it began; another one means something else.
	same := o.name == "" || o.name == sb.Name
	if o.spare != "" {
		n, err := size.Parse(o.spare)
		if err != nil {
			return fmt.Errorf("--spare %w", err)
		}
		same = same && n.Of(devs[0].Size(), metadata.UnitSize) == spares
	}
	if !same {
		return fmt.Errorf("%s: %w: the takeover of %q with %d bytes of spare space was "+
			"interrupted when most was done; finish it without --spare and --name", devs[0].Path(),
			exit.ErrUsage, sb.Name, spares)
	}
	if !o.dryRun {
		if err := metadata.ResumeConvert(set, sb, opts); err != nil {
			return fmt.Errorf("%s: %w", devs[0].Path(), err)
		}
		a.rescan(devs[0])
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

// question is what is asked before a disk is taken over.
func (c *created) question() string {
	what := "what is on it, which is not recognized,"
	if len(c.Kept) > 0 {
		what = strings.Join(c.Kept, ", and ")
	}
	q := fmt.Sprintf("This takes %s over: %s stays as it is", c.Backing, what)
	if c.SpareDevice == "" {
		q += fmt.Sprintf("; all bytes from %d on are used and lost", c.SizeBytes)
	} else {
		q += fmt.Sprintf("; its first %s move to %s", sizeText(c.HeadBytes), c.SpareDevice)
	}
	if len(c.Replaced) > 0 {
		q += "; this destroys " + strings.Join(c.Replaced, ", and ")
	}
	return q + "."
}

// judge decides whether a disk can be taken over: whether all that is on it
// lies in what will be exported. It says what that is, and where the page lies
// by which it is recognized. The error is exit.ErrRefused.
func judge(d *blockdev.Device, plan *metadata.Layout, o createOptions) (kept []string, mark int64,
	err error) {
	refuse := func(format string, args ...any) ([]string, int64, error) {
		return nil, 0, fmt.Errorf("%s: %w: %s", d.Path(), exit.ErrRefused,
			fmt.Sprintf(format, args...))
	}
	switch sb, err := metadata.Probe(d); {
	case errors.Is(err, metadata.ErrPath):
		return nil, 0, err // whatever is on it
	case err == nil:
		return refuse("it is ublk-remap's %s of %q already", sb.Devices[sb.DeviceIndex].Role,
			sb.Name)
	case errors.Is(err, metadata.ErrDamaged), errors.Is(err, metadata.ErrUnsupported):
		return refuse("ublk-remap's format is on it (%v)", err)
	}
	sb := plan.Superblock()
	alone := len(sb.Devices) == 1
	f := blockdev.Detect(d, d.Size())
	mark = int64(-1)
	for _, s := range f.Signatures {
		kept = append(kept, s.String())
		switch {
		case s.Offset < metadata.PageSize:
			mark = 0
		case mark < 0 && s.Offset >= metadata.SuperblockStride &&
			s.Offset < metadata.SuperblockStride+metadata.PageSize:
			mark = metadata.SuperblockStride
		}
		switch {
		case s.Kind == blockdev.KindRemap:
			return refuse("there is %s, which another driver serves", s)
		case s.AtEnd && s.Kind != blockdev.KindPartitions:
			return refuse("there is %s at the end of the disk, where it would be cut off, or be "+
				"found while the disk is half taken over; take the disk out of that first", s)
		case !alone:
			continue // the exported device has the disk's full size
		case s.Kind == blockdev.KindPartitions && s.Name != "dos":
			return refuse("there is %s, which has a copy at the end of the disk; add --spare-device", s)
		}
		e, known := blockdev.ExtentOf(d, d.Size(), d.Geometry().LogicalBlock, s)
		switch {
		case !known && !o.force:
			return refuse("there is %s, and how far it reaches is not known; add --spare-device, "+
				"or --force if nothing lies behind byte %d", s, sb.ExportedBytes)
		case known && e.End > sb.ExportedBytes:
			do := "it cannot be made smaller, add --spare-device"
			if e.Shrink != nil {
				do = "make it smaller first, with: " + e.Shrink(d.Path(), sb.ExportedBytes) +
					"; or add --spare-device"
			}
			return refuse("there is %s, which ends at byte %d, %s too far: the bytes from %d on "+
				"are needed; %s", s, e.End, sizeText(e.End-sb.ExportedBytes), sb.ExportedBytes, do)
		}
	}
	if len(kept) == 0 && !f.Blank && !o.force {
		return refuse("what is on it is not recognized; add --force if nothing but the bytes "+
			"below %d matters", sb.ExportedBytes)
	}
	if len(f.Unread) > 0 && !o.force {
		return refuse("byte %d cannot be read, so that what is on it may not have been "+
			"recognized; add --force if nothing but the bytes below %d matters", f.Unread[0],
			sb.ExportedBytes)
	}
	if kept == nil {
		kept = []string{}
	}
	return kept, max(mark, 0), nil
}

// asMetadata is the devices as package metadata wants them.
func asMetadata(devs []*blockdev.Device) []metadata.Device {
	out := make([]metadata.Device, len(devs))
	for i, d := range devs {
		out[i] = d
	}
	return out
}

// spareAdvice adds what to do about a spare device that is missing.
func spareAdvice(path string, err error) error {
	if errors.Is(err, metadata.ErrNotFound) {
		return fmt.Errorf("%s: %w; name it with --spare-device", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// moveOptions are those of a long copy, which tells how far it is. end is to be called
// when it is over.
func (a *app) moveOptions(what string) (o metadata.ConvertOptions, end func()) {
	o = metadata.ConvertOptions{Now: metadata.Seconds(time.Now()), Session: rand.Uint64()}
	var bar *progress
	end = func() {
		if bar != nil {
			bar.end()
			bar = nil
		}
	}
	o.Progress = func(done, total int64) {
		if bar == nil {
			bar = a.progress(what)
		}
		if bar.set(done, total); done >= total {
			end()
		}
	}
	return o, end
}

// rescan makes the kernel look at the partitions of a disk again: nobody is to
// use them underneath a set, or to miss them on a plain disk.
func (a *app) rescan(d *blockdev.Device) {
	if err := d.Rescan(); err != nil {
		a.log.Warn().Err(err).Str("device", d.Path()).Msg("the kernel may go by an old partition " +
			"table; see blockdev --rereadpt")
	}
}
