package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/fill"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/lists"
	"ublkremap/internal/readable"
)

type fillOptions struct {
	from, mapFile, offset string
	files, of             string
	force, dryRun         bool

	placed bool  // --offset was given
	at     int64 // its value
}

func fillCommand(a *app) *cobra.Command {
	var o fillOptions
	cmd := &cobra.Command{
		Use:   "fill DEV|NAME --from FILE|DEVICE | --files DIR",
		Short: "Give bad blocks what they held, from a backup",
		Long: `Give the pending and lost blocks of a device what an image of its disk has of
them. The device may be in use. All other blocks stay as they are: those that
were written meanwhile, those that are not bad, and pending blocks that read
again.

--from is an image of the whole disk, or a disk that it was copied to. Of an
image that GNU ddrescue has made, name its map too: what it could not rescue is
no data. For an image of a partition, --offset says where on the device it
begins.

--files is a backup of the files, of a file system that is mounted: a copy of
its mount point, or of the directory that --of names. Each damaged file must
equal the backup's wherever it can be read. Otherwise it is listed and left
alone.

Before anything is filled from an image, blocks that read are compared with the
image. If none is the same, it is an image of another disk, and refused unless
--force.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			if o.files != "" {
				return a.fillFiles(cmd.Context(), r, o)
			}
			return a.fill(cmd.Context(), r, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "`IMAGE` of the disk, or a disk that it was copied to")
	f.StringVar(&o.mapFile, "map", "", "`FILE` of ddrescue, its map of the image: only what it "+
		"calls finished (+) is taken")
	f.StringVar(&o.offset, "offset", "", "`BYTE` of the device at which the image begins: the "+
		"start of a partition")
	f.StringVar(&o.files, "files", "", "`DIR` with a backup of the files")
	f.StringVar(&o.of, "of", "", "with --files: `DIR` that it is a backup of (default "+
		"where the file system is mounted)")
	f.BoolVar(&o.force, "force", false, "go on although the image looks like that of another disk")
	dryRunFlag(cmd, &o.dryRun)
	a.jsonFlag(cmd)
	return cmd
}

// check checks the flags. The error is exit.ErrUsage, or that of a size.
func (o *fillOptions) check(cmd *cobra.Command) (err error) {
	if (o.from == "") == (o.files == "") {
		return fmt.Errorf("%w: want one of --from and --files: what to fill the blocks from",
			exit.ErrUsage)
	}
	o.placed = cmd.Flags().Changed("offset")
	for name, image := range map[string]bool{"map": true, "offset": true, "force": true,
		"of": false} {
		if cmd.Flags().Changed(name) && image != (o.from != "") {
			return fmt.Errorf("--%s: %w: it does not go with --%s", name, exit.ErrUsage,
				map[bool]string{true: "files", false: "from"}[image])
		}
	}
	o.at, err = exactSize("--offset", o.offset)
	return err
}

// fillResult is what fill prints as JSON.
type fillResult struct {
	Device string `json:"device"`
	From   string `json:"from"`
	Map    string `json:"map"`
	fill.Result
	DryRun bool `json:"dry_run"`
}

func (a *app) fill(ctx context.Context, r *control.Record, o fillOptions) error {
	out := fillResult{Device: r.Device, From: o.from, Map: o.mapFile, DryRun: o.dryRun}
	f, size, err := openImage(r, o)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := o.covers(r, size, f)
	if err != nil {
		return err
	}
	bad, err := badRanges(ctx, r)
	if err != nil {
		return err
	}
	d := fill.Device{Path: r.Device, BlockSize: int64(r.BlockSize), Size: sizeOf(r),
		Fill: control.NewClient(r.Name).Fill}
	src := fill.NewSource(o.from, f, -o.at, have)
	if err := a.sameDisk(ctx, d, src, bad, o); err != nil {
		return err
	}
	if o.dryRun {
		runs, missing := fill.Plan(bad, src, d.BlockSize)
		n := fill.Count(runs, bad, d.BlockSize)
		out.Result = fill.Result{Bad: n + missing, Filled: n, Missing: missing}
		if n > 0 {
			have := lists.Intersect(bad, lists.Merge(runs))
			if err := wouldFill(ctx, r, blocksOf(have, d.BlockSize)); err != nil {
				return err
			}
		}
	} else {
		bar := a.progress("filling")
		runs, _ := fill.Plan(bad, src, d.BlockSize)
		total := int64(0)
		for _, r := range runs {
			total += r.End - r.Start
		}
		bar.Set(0, total)
		out.Result, err = fill.Run(ctx, d, src, bad, bar.Add)
		bar.End()
	}
	if err != nil {
		return fmt.Errorf("%s: %w (%s of %s blocks were filled)", r.Device, err,
			readable.Number(out.Filled), readable.Number(out.Bad))
	}
	return a.printFilled(out)
}

// wouldFill returns the error with which a fill of these blocks would end: see wouldFail.
func wouldFill(ctx context.Context, r *control.Record, ranges []control.Range) error {
	s, err := standingOf(ctx, r, ranges)
	if err != nil {
		return err
	}
	return wouldFail(ctx, r, s.units)
}

func sizeOf(r *control.Record) int64 { return int64(r.Blocks) * int64(r.BlockSize) }

// bytesOf returns the size of a disk or a file; 0 if it cannot be told.
func bytesOf(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0
	}
	return n
}

// badRanges returns the pending and lost blocks of a device, in bytes.
func badRanges(ctx context.Context, r *control.Record) ([]lists.Range, error) {
	var bad []lists.Range
	bs := int64(r.BlockSize)
	err := control.NewClient(r.Name).EachRemap(ctx, func(m control.Remap) error {
		if m.State == "pending" || m.State == "lost" {
			bad = append(bad, lists.Range{Start: int64(m.Block) * bs,
				End: int64(m.Block+m.Count) * bs})
		}
		return nil
	})
	return lists.Merge(bad), err
}

// openImage opens the image and returns its size.
func openImage(r *control.Record, o fillOptions) (*os.File, int64, error) {
	for _, own := range append([]string{r.Device, r.Backing}, r.Spares...) {
		if own == o.from || blockdev.SameDisk(own, o.from) {
			return nil, 0, fmt.Errorf("--from %s: %w: that is the device itself, or its disk",
				o.from, exit.ErrUsage)
		}
	}
	st, err := os.Stat(o.from)
	if err == nil && !st.Mode().IsRegular() && st.Mode()&os.ModeType != os.ModeDevice {
		err = fmt.Errorf("--from %s: %w: want a file or a block device", o.from, exit.ErrUsage)
	}
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(o.from)
	if err != nil {
		return nil, 0, err
	}
	below := slices.Concat(blockdev.Beneath(o.from), blockdev.BeneathDevice(o.from))
	if slices.Contains(below, filepath.Base(r.Device)) && !o.force {
		return nil, 0, errors.Join(fmt.Errorf("--from %s: %w: it lies on %s itself; --force takes "+
			"it all the same", o.from, exit.ErrRefused, r.Device), f.Close())
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// covers returns which bytes of the device the image has. It refuses an image, or a map, of another
// size than the disk's.
func (o *fillOptions) covers(r *control.Record, size int64, f *os.File) ([]lists.Range, error) {
	end := size // of what the image is of
	have := []lists.Range{{Start: 0, End: size}}
	if o.mapFile != "" {
		var err error
		if have, end, err = rescued(o.mapFile); err != nil {
			return nil, err
		}
		// ddrescue does not write the end of an image if it could not rescue that. A disk that it
		// copied to may be larger.
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if st.Mode().IsRegular() && size > end && !o.force {
			return nil, fmt.Errorf("--map %s: %w: it is about %d bytes, and the image has %d: a "+
				"map of another image; --force takes it all the same", o.mapFile, exit.ErrRefused,
				end, size)
		}
		have = lists.Subtract(have, []lists.Range{{Start: size, End: 1 << 62}})
	}
	exported, disk := sizeOf(r), bytesOf(r.Backing)
	switch {
	case o.placed && (o.at%int64(r.BlockSize) != 0 || o.at >= exported):
		return nil, fmt.Errorf("--offset %d: %w: want a multiple of %d below %d", o.at,
			exit.ErrUsage, r.BlockSize, exported)
	case !o.placed && end != exported && end != disk:
		return nil, fmt.Errorf("--from %s: %w: it is of %d bytes, %s has %d and its disk %d; for "+
			"an image of a part, add --offset", o.from, exit.ErrRefused, end, r.Device, exported,
			disk)
	}
	for i := range have {
		have[i].Start, have[i].End = have[i].Start+o.at, have[i].End+o.at
	}
	return lists.Subtract(have, []lists.Range{{Start: exported, End: 1 << 62}}), nil
}

// rescued reads a map of ddrescue. It returns what was rescued, and up to where the map goes.
func rescued(path string) (have []lists.Range, end int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	for _, status := range []string{"+", "?*/-+"} {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, 0, err
		}
		list, err := lists.Read(f, path, lists.Options{Format: lists.Ddrescue, Size: 1 << 60,
			Status: status})
		if err != nil {
			return nil, 0, err
		}
		if status == "+" {
			have = list.Ranges
		}
		end = list.End
	}
	return have, end, nil
}

// sameDisk refuses an image of another disk.
func (a *app) sameDisk(ctx context.Context, d fill.Device, src *fill.Source, bad []lists.Range,
	o fillOptions) error {
	same, differ, err := fill.Sample(ctx, d, src, bad)
	switch {
	case err != nil:
		return fmt.Errorf("compare %s with %s: %w", d.Path, o.from, err)
	case same == 0 && differ > 0 && !o.force:
		return fmt.Errorf("--from %s: %w: %d places that read were compared with %s, and none "+
			"is the same: an image of another disk, or another --offset; --force takes it all the "+
			"same", o.from, exit.ErrRefused, differ, d.Path)
	case same < differ:
		a.log.Warn().Int("same", same).Int("differ", differ).Msg("most places that were compared " +
			"differ from the image: it may be an old one, or of another disk")
	}
	return nil
}

// printFilled prints what was done. The error is that blocks could not be filled.
func (a *app) printFilled(out fillResult) error {
	var failed error
	if out.Failed > 0 {
		why := "their new place failed, or the breaker is open; see: ublk-remap status " +
			out.Device
		if out.Reason != "" {
			why = out.Reason
		}
		failed = fmt.Errorf("%s: %s blocks could not be filled and stay as they are: %s",
			out.Device, readable.Number(out.Failed), why)
	}
	if a.json {
		return errors.Join(a.printJSON(out), failed)
	}
	verb := "filled"
	if out.DryRun {
		verb = "would be filled"
	}
	rows := [][]string{{verb, fmt.Sprintf("%s of %s bad blocks", readable.Number(out.Filled),
		readable.Number(out.Bad))}}
	for _, row := range []struct {
		n    uint64
		what string
	}{
		{out.Missing, "are not in the backup, and stay as they are"},
		{out.Reads, "are pending and read again: left alone"},
		{out.NotBad, "were written meanwhile: left alone"},
	} {
		if row.n > 0 {
			rows = append(rows, []string{readable.Number(row.n), row.what})
		}
	}
	return errors.Join(a.table(rows), failed)
}
