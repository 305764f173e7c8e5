package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/fill"
	"ublkremap/internal/control"
	"ublkremap/internal/files"
	"ublkremap/internal/mountinfo"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// filledFiles is what fill --files prints as JSON.
type filledFiles struct {
	Device string      `json:"device"`
	Dir    string      `json:"backup_dir"`
	Files  []fill.File `json:"files"`
	// Other are bad blocks that are no data of a file: metadata, free space, or not known.
	Other  uint64 `json:"other_blocks"`
	DryRun bool   `json:"dry_run"`
}

// fillFiles fills the bad blocks of files from a backup of the files.
func (a *app) fillFiles(ctx context.Context, r *control.Record, o fillOptions) error {
	dir, err := filepath.Abs(o.files)
	if err != nil {
		return err
	}
	if st, err := os.Stat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return fmt.Errorf("--files %s: %w: want a directory", o.files, exit.ErrUsage)
	}
	of := ""
	if o.of != "" {
		if of, err = filepath.Abs(o.of); err != nil {
			return err
		}
	}
	out := filledFiles{Device: r.Device, Dir: dir, Files: []fill.File{}, DryRun: o.dryRun}
	bad, err := badRanges(ctx, r)
	if err != nil {
		return err
	}
	paths, err := a.damaged(ctx, r, &out)
	if err != nil {
		return err
	}
	d := fill.Device{Path: r.Device, BlockSize: int64(r.BlockSize), Size: sizeOf(r),
		Fill: control.NewClient(r.Name).Fill}
	bar := a.progress("filling files")
	defer bar.End()
	for i, path := range paths {
		bar.Note(fmt.Sprintf("%d of %d files", i, len(paths)))
		backup, err := backupOf(path, of, dir)
		f := fill.File{Path: path, State: fill.StateLeft}
		if err != nil {
			f.Why = err.Error()
		} else if f, err = d.Restore(ctx, path, backup, bad, placeOn(r.Device),
			o.dryRun); err != nil {
			return fmt.Errorf("%s: %w (%d of %d files were done)", path, err, i, len(paths))
		}
		out.Files = append(out.Files, f)
	}
	fills := func(f fill.File) bool { return f.Filled > 0 }
	if o.dryRun && slices.ContainsFunc(out.Files, fills) {
		if err := wouldFail(ctx, r, 1); err != nil {
			return err
		}
	}
	return a.printFilledFiles(out)
}

// damaged returns the paths of the files that have bad blocks, in order.
func (a *app) damaged(ctx context.Context, r *control.Record, out *filledFiles) ([]string, error) {
	runs, err := wantedRuns(ctx, r, nil, []string{"pending", "lost"})
	if err != nil {
		return nil, err
	}
	found, err := files.Find(ctx, files.Device{Path: r.Device, BlockSize: int64(r.BlockSize)}, runs)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	for _, n := range found.Notes {
		a.tell("ublk-remap: %s\n", readable.Text(n))
	}
	var paths []string
	for i := range found.Rows {
		row := &found.Rows[i]
		if row.Damaged() && row.Path != "" {
			paths = append(paths, row.Path)
		} else {
			out.Other += row.Count
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// backupOf returns where in dir the backup of a file is. dir is a copy of the directory of, or if
// that is empty, of what the file's file system is mounted on.
func backupOf(path, of, dir string) (string, error) {
	if of == "" {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return "", fmt.Errorf("its file system is not mounted here (%w)", err)
		}
		list, err := mountinfo.Read(mountinfo.Self)
		if err != nil {
			return "", err
		}
		for _, m := range list {
			if m.Dev == st.Dev && len(m.Point) > len(of) && below(path, m.Point) {
				of = m.Point
			}
		}
		if of == "" {
			return "", errors.New("its file system is not mounted here")
		}
	}
	if !below(path, of) {
		return "", fmt.Errorf("it is not below %s", of)
	}
	rel, err := filepath.Rel(of, path)
	return filepath.Join(dir, rel), err
}

// below reports whether a path lies in a directory.
func below(path, dir string) bool {
	return dir == "/" || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// placeOn returns a function that says where on a device the device of a file system begins: the
// device itself, or one of its partitions.
func placeOn(device string) func(dev uint64) (int64, error) {
	return func(dev uint64) (int64, error) {
		var st unix.Stat_t
		if err := unix.Stat(device, &st); err != nil {
			return 0, err
		}
		if dev == st.Rdev {
			return 0, nil
		}
		dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev),
			unix.Minor(dev)))
		if err == nil && filepath.Base(filepath.Dir(dir)) == filepath.Base(device) {
			text, err := os.ReadFile(filepath.Join(dir, "start"))
			if err == nil {
				n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
				return n * 512, err
			}
		}
		return 0, fmt.Errorf("its file system is neither on %s nor on a partition of it; copy it "+
			"from the backup", device)
	}
}

// printFilledFiles prints what was done. The error is that blocks could not be filled.
func (a *app) printFilledFiles(out filledFiles) error {
	var failed error
	n := uint64(0)
	for _, f := range out.Files {
		n += f.Failed
	}
	if n > 0 {
		failed = fmt.Errorf("%s: %w: %s blocks could not be filled and stay as they are; see: %s",
			out.Device, control.ErrFailed, readable.Number(n), shell.Command("status", out.Device))
	}
	if a.json {
		return errors.Join(a.printJSON(out), failed)
	}
	var rows [][]string
	filled := 0
	for _, f := range out.Files {
		what := "left alone"
		switch {
		case f.State == fill.StateFilled && out.DryRun:
			what = "would be filled"
		case f.State == fill.StateFilled:
			what = "filled"
		case f.Filled > 0:
			what = "filled in part"
		}
		if f.State == fill.StateFilled {
			filled++
		}
		rows = append(rows, []string{what, f.Path, f.Why})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	verb := "are"
	if out.DryRun {
		verb = "would be"
	}
	_, err := fmt.Fprintf(a.out, "%d of %d damaged files %s as in the backup\n", filled,
		len(out.Files), verb)
	if err == nil && out.Other > 0 {
		_, err = fmt.Fprintf(a.out, "%s bad blocks are no data of a file; see: %s\n",
			readable.Number(out.Other), shell.Command("files", out.Device))
	}
	return errors.Join(err, failed)
}
