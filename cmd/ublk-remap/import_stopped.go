package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

// importStopped marks the blocks of a list in a set that nobody serves. The disk is held
// exclusively from before the list is read until the marks are durable, so no start comes between.
func (a *app) importStopped(ctx context.Context, what, file string, o importOptions) error {
	b, err := host.FindBacking(ctx, what, "")
	if err != nil {
		return fmt.Errorf("%w; if the set is stopped, name its disk", err)
	}
	s, err := host.OpenToMark(ctx, b.Path, o.spares, o.dryRun)
	if err != nil {
		return err
	}
	defer s.Close()
	var w watch
	defer w.end()
	w.begin(a, "reading the metadata of "+b.Path, 0)
	img, err := metadata.Load(w.of(s))
	if err != nil {
		return fmt.Errorf("%s: %w", b.Path, err)
	}
	w.end()
	l := img.Layout()
	out := imported{Device: b.Path, Format: o.format, DryRun: o.dryRun}
	ranges, err := a.listed(importTarget{b.Path, int64(l.Blocks()), int64(l.BlockSize()),
		func() (*metadata.Layout, error) { return l, nil }}, file, o, &out)
	if err != nil {
		return err
	}
	opts, err := runOptions()
	if err != nil {
		return err
	}
	marks, err := metadata.PlanMarks(img, blockRanges(ranges), metadata.CauseImport, opts.Now)
	start := shell.Command("start", b.Path)
	if errors.Is(err, metadata.ErrTableFull) {
		return fmt.Errorf("%s: %w; nothing was changed; a server can make room: %s, and import "+
			"then", b.Path, err, start)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.Path, err)
	}
	for _, r := range ranges {
		out.Listed += r.Count
	}
	out.Marked, out.Known, out.Spared = marks.Marked, marks.Known, marks.Spared
	if !o.dryRun {
		w.begin(a, b.Path+": marking", 0)
		err := marks.Run(opts)
		w.end()
		if err != nil {
			return fmt.Errorf("%s: the marks: %w; nothing else was changed; run it again", b.Path,
				err)
		}
	}
	if err := a.printImported(out, o.marksOnly()); err != nil {
		return err
	}
	if o.dryRun || o.markOnly || a.json || out.Marked+out.Known == 0 {
		return nil
	}
	_, err = io.WriteString(a.out, "the set is stopped, so none was read; to have what still "+
		"reads moved: "+start+", and run this again\n")
	return err
}

// marksOnly are the options of an import that reads nothing.
func (o importOptions) marksOnly() importOptions {
	o.markOnly = true
	return o
}

// blockRanges puts ranges into the form of package metadata.
func blockRanges(list []control.Range) []metadata.BlockRange {
	out := make([]metadata.BlockRange, len(list))
	for i, r := range list {
		out[i] = metadata.BlockRange(r)
	}
	return out
}
