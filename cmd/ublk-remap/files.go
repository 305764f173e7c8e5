package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/files"
	"ublkremap/internal/readable"
)

// The states of blocks that are not in the table.
const (
	stateHome = "home"
	stateSlow = "slow" // the scrub found that it is slow to read
)

func filesCommand(a *app) *cobra.Command {
	var states []string
	var healFree, dryRun bool
	cmd := &cobra.Command{
		Use:   "files DEV|NAME [BLOCK[+COUNT]…]",
		Short: "Which files bad blocks belong to",
		Long: `Tell what each pending, lost, remapped or slow block holds, or each of the
blocks that are named: a file, metadata of a file system, or free space.
Partitions, LVM, LUKS and loop devices on the device are followed.

The owner of a block is
  file      the contents of a file
  metadata  of a file system, of a volume manager or of a partition table
  free      free space of a file system: nothing is lost
  unknown   it could not be found out, and why

ext4, xfs and btrfs are asked while they are mounted, in any mount namespace;
ext4 and xfs also if they are not. Nothing is written, unless --heal-free is
given: then pending and lost blocks that are proven to be free space are
overwritten with zeroes, so that what remains is the true list of loss. A block
that a file gets meanwhile is left alone.`,
		Args: arguments(1, anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := filesFlags(states, healFree, dryRun); err != nil {
				return err
			}
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			ranges, err := parseRanges(args[1:], r.Blocks)
			if err != nil {
				return err
			}
			if healFree {
				return a.healFree(cmd.Context(), r, ranges, dryRun)
			}
			return a.files(cmd.Context(), r, ranges, states)
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only blocks in this `STATE`, or in "+
		"several with commas: pending, lost, mapped, slow, home")
	cmd.Flags().BoolVar(&healFree, "heal-free", false, "overwrite pending and lost blocks that "+
		"are free space")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "with --heal-free: say what would be done and "+
		"change nothing")
	a.jsonFlag(cmd)
	return cmd
}

func filesFlags(states []string, healFree, dryRun bool) error {
	switch {
	case healFree && len(states) > 0:
		return fmt.Errorf("--heal-free --state: %w: it heals what is pending or lost",
			exit.ErrUsage)
	case dryRun && !healFree:
		return fmt.Errorf("--dry-run: %w: it goes with --heal-free", exit.ErrUsage)
	}
	for _, s := range states {
		if !slices.Contains([]string{"pending", "lost", "mapped", stateSlow, stateHome}, s) {
			return fmt.Errorf("--state %q: %w: want pending, lost, mapped, slow or home", s,
				exit.ErrUsage)
		}
	}
	return nil
}

func (a *app) files(ctx context.Context, r *control.Record, ranges []control.Range,
	states []string) error {
	runs, err := wantedRuns(ctx, r, ranges, states)
	if err != nil {
		return err
	}
	bar := a.progress("looking for the owners of blocks")
	found, err := files.Find(ctx, files.Device{Path: r.Device, BlockSize: int64(r.BlockSize),
		Progress: ownersFound{bar}}, runs)
	bar.End()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, n := range found.Notes {
		a.tell("ublk-remap: %s\n", readable.Text(n))
	}
	if a.json {
		if found.Rows == nil {
			found.Rows = []files.Row{}
		}
		return a.printJSON(found.Rows)
	}
	return a.printFiles(found.Rows)
}

// maxRuns is how many runs of blocks are looked at in one go. Each takes about 500 bytes.
const maxRuns = 2 << 20

func errManyRuns(r *control.Record) error {
	return fmt.Errorf("%s: more than %d runs of blocks: name some of them, or choose by --state",
		r.Device, maxRuns)
}

// wantedRuns returns the blocks that are asked about with their states: those of the table, or
// those that are named.
func wantedRuns(ctx context.Context, r *control.Record, ranges []control.Range, states []string) (
	runs []files.Run, err error) {
	named := joinRanges(ranges)
	wanted := func(state string) bool { return len(states) == 0 || slices.Contains(states, state) }
	add := func(block, count uint64, state string) error {
		if !wanted(state) {
			return nil
		}
		if n := len(runs) - 1; n >= 0 && runs[n].State == state &&
			runs[n].Block+runs[n].Count == block {
			runs[n].Count += count
			return nil
		}
		if len(runs) == maxRuns {
			return errManyRuns(r)
		}
		runs = append(runs, files.Run{Block: block, Count: count, State: state})
		return nil
	}
	var slow, known []control.Range
	if wanted(stateSlow) {
		if slow, err = slowBlocks(ctx, r); err != nil {
			return nil, err
		}
	}
	var table []control.Remap
	err = control.NewClient(r.Name).EachRemap(ctx, func(m control.Remap) error {
		known = append(known, overlapping(slow, m.Block, m.Count)...)
		if len(named) == 0 {
			return add(m.Block, m.Count, m.State)
		}
		for _, g := range overlapping(named, m.Block, m.Count) {
			m.Block, m.Count = g.Block, g.Count
			table = append(table, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, g := range lacking(slow, joinRanges(known)) {
		if len(named) == 0 {
			err = errors.Join(err, add(g.Block, g.Count, stateSlow))
		}
		for _, g := range overlapping(named, g.Block, g.Count) {
			table = append(table, control.Remap{Block: g.Block, Count: g.Count, State: stateSlow})
		}
	}
	slices.SortFunc(table, func(a, b control.Remap) int { return compare(a.Block, b.Block) })
	for _, g := range named {
		err = errors.Join(err, namedRuns(g, &table, add))
	}
	return runs, err
}

// namedRuns adds the blocks that are named with their states. It takes what is known of them from
// the front of the table.
func namedRuns(g control.Range, table *[]control.Remap,
	add func(block, count uint64, state string) error) (err error) {
	next, end := g.Block, g.Block+g.Count
	for len(*table) > 0 && (*table)[0].Block < end {
		m := (*table)[0]
		*table = (*table)[1:]
		if m.Block > next {
			err = errors.Join(err, add(next, m.Block-next, stateHome))
		}
		err = errors.Join(err, add(m.Block, m.Count, m.State))
		next = m.Block + m.Count
	}
	if next < end {
		err = errors.Join(err, add(next, end-next, stateHome))
	}
	return err
}

// slowBlocks returns the blocks that are slow to read, in order. A server that is too old to know
// has none.
func slowBlocks(ctx context.Context, r *control.Record) ([]control.Range, error) {
	slow, err := control.NewClient(r.Name).SlowBlocks(ctx)
	if errors.Is(err, control.ErrNotFound) {
		return nil, nil
	}
	return joinRanges(slow), err
}

// lacking returns the parts of ranges that are not in others. Both are ordered and do not overlap.
func lacking(ranges, others []control.Range) (out []control.Range) {
	for _, g := range ranges {
		next, end := g.Block, g.Block+g.Count
		for _, o := range overlapping(others, g.Block, g.Count) {
			if o.Block > next {
				out = append(out, control.Range{Block: next, Count: o.Block - next})
			}
			next = o.Block + o.Count
		}
		if next < end {
			out = append(out, control.Range{Block: next, Count: end - next})
		}
	}
	return out
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// joinRanges orders ranges and joins those that overlap.
func joinRanges(ranges []control.Range) (out []control.Range) {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b control.Range) int { return compare(a.Block, b.Block) })
	for _, g := range ranges {
		if n := len(out) - 1; n >= 0 && g.Block <= out[n].Block+out[n].Count {
			out[n].Count = max(out[n].Count, g.Block+g.Count-out[n].Block)
			continue
		}
		out = append(out, g)
	}
	return out
}

// overlapping returns the parts of ranges, which are ordered and do not overlap, that are in a run
// of blocks.
func overlapping(ranges []control.Range, block, count uint64) (out []control.Range) {
	i, _ := slices.BinarySearchFunc(ranges, block, func(g control.Range, b uint64) int {
		if g.Block+g.Count <= b {
			return -1
		}
		return 1
	})
	for ; i < len(ranges) && ranges[i].Block < block+count; i++ {
		from := max(ranges[i].Block, block)
		to := min(ranges[i].Block+ranges[i].Count, block+count)
		out = append(out, control.Range{Block: from, Count: to - from})
	}
	return out
}

// printFiles prints rows for people, and what they come to.
func (a *app) printFiles(rows []files.Row) error {
	out := bufio.NewWriterSize(a.out, 64<<10)
	line := func(cells ...any) {
		_, _ = fmt.Fprintf(out, "%-12v  %-8v  %-8v  %-9v  %v\n", cells...)
	}
	if len(rows) > 0 {
		line("BLOCK", "COUNT", "STATE", "OWNER", "WHAT")
	}
	for _, r := range rows {
		line(r.Block, r.Count, readable.Text(r.State), r.Owner, readable.Text(rowText(&r)))
	}
	_, _ = fmt.Fprintln(out, readable.Text(damageText(damageOf(rows))))
	return out.Flush()
}

// rowText says in words whose a row is.
func rowText(r *files.Row) string {
	var words []string
	switch {
	case r.Path != "":
		words = append(words, r.Path)
	case r.Inode != 0 && r.Owner == files.OwnerFile:
		words = append(words, "inode "+strconv.FormatUint(r.Inode, 10))
	}
	if r.What != "" {
		words = append(words, r.What)
	}
	if r.Filesystem != "" && r.Path == "" {
		words = append(words, "("+r.Filesystem+")")
	}
	return strings.Join(words, " ")
}

// maxPaths is how many damaged files are named.
const maxPaths = 100

// damageOf returns what pending and lost blocks come to. The rows are by block. A block that is in
// several rows, as of a volume and its snapshot, is counted once.
func damageOf(rows []files.Row) *control.Damage {
	type file struct {
		fs    string
		inode uint64
	}
	d := &control.Damage{Paths: []string{}, Complete: true}
	seen := map[file]bool{}
	var metadata, unknown uint64 // the blocks before these are counted
	count := func(next *uint64, r *files.Row) uint64 {
		from, end := max(r.Block, *next), r.Block+r.Count
		*next = max(end, *next)
		return *next - from
	}
	for i := range rows {
		r := &rows[i]
		if r.State != "pending" && r.State != "lost" {
			continue
		}
		switch {
		case r.Damaged():
			k := file{r.Filesystem, r.Inode}
			if seen[k] {
				continue
			}
			seen[k] = true
			d.Damaged++
			name := r.Path
			if name == "" {
				name = fmt.Sprintf("inode %d of %s", r.Inode, r.Filesystem)
			}
			if len(d.Paths) < maxPaths {
				d.Paths = append(d.Paths, name)
			}
		case r.Owner == files.OwnerMetadata:
			d.Metadata += count(&metadata, r)
		case r.Owner == files.OwnerUnknown:
			d.Unknown += count(&unknown, r)
		}
	}
	return d
}

// damageText says it in one sentence.
func damageText(d *control.Damage) string {
	var text string
	switch d.Damaged {
	case 0:
		text = "0 files affected"
	case 1:
		text = "1 file is damaged: " + d.Paths[0]
	default:
		const most = 5
		text = fmt.Sprintf("%d files are damaged: %s", d.Damaged,
			strings.Join(d.Paths[:min(len(d.Paths), most)], ", "))
		if d.Damaged > most {
			text += ", …"
		}
	}
	if d.Metadata > 0 {
		text += fmt.Sprintf("; %s blocks of metadata", readable.Number(d.Metadata))
	}
	if d.Unknown > 0 {
		text += fmt.Sprintf("; of %s blocks the owner is not known", readable.Number(d.Unknown))
	}
	return text
}
