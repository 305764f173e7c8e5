package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/control"
	"ublkremap/internal/lists"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// Formats of export beside those of package lists.
const (
	formatJSON    = "json"
	formatCSV     = "csv"
	formatDMSetup = "dmsetup"
)

type exportOptions struct {
	format    string
	blockSize int
	offset    string
	length    string
	remapped  bool
	slow      bool
	spares    []string

	from, bytes int64 // what offset and length say; bytes 0: up to the end
}

func exportCommand(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export DEV|BACKING --format FORMAT",
		Short: "Print bad blocks, or the remap table, for other tools",
		Long: `Print what is known of a device's blocks in the form of another tool, as of one
moment. The device may be in use, or be stopped.

badblocks, ddrescue: the blocks that cannot be read, which are pending or lost;
with --remapped also those that live in the spare region, because their homes
are bad. json, csv: the remap table. With --slow all of these have the blocks
too that the scrub found slow to read. dmsetup: a table that shows the device,
read-only, on a machine without ublk-remap: dmsetup create --readonly NAME
TABLE.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.export(cmd.Context(), args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.format, "format", "", "`FORMAT` to print: badblocks, ddrescue, json, csv or "+
		"dmsetup")
	f.IntVar(&o.blockSize, "block-size", 1024, "`BYTES` of the blocks that badblocks numbers "+
		"count: those of the file system, for e2fsck")
	f.StringVar(&o.offset, "offset", "", "`BYTE` of the device where block 0 lies: the start of a "+
		"partition")
	f.StringVar(&o.length, "length", "", "`BYTES` from there on: the size of a partition "+
		"(default up to the end)")
	f.BoolVar(&o.remapped, "remapped", false, "also the blocks that live in the spare region")
	f.BoolVar(&o.slow, "slow", false, "also the blocks that are slow to read; of a device that is "+
		"in use")
	spareFlag(cmd, &o.spares)
	return cmd
}

// check checks the flags. The error is exit.ErrUsage, or that of a size.
func (o *exportOptions) check(cmd *cobra.Command) (err error) {
	listed := false
	switch o.format {
	case lists.Badblocks, lists.Ddrescue:
		listed = true
	case formatJSON, formatCSV, formatDMSetup:
	default:
		return fmt.Errorf("--format %q: %w: want badblocks, ddrescue, json, csv or dmsetup",
			o.format, exit.ErrUsage)
	}
	for _, name := range []string{"offset", "length", "remapped"} {
		if cmd.Flags().Changed(name) && !listed {
			return fmt.Errorf("--%s: %w: it is for badblocks and ddrescue; %s is of all blocks",
				name, exit.ErrUsage, o.format)
		}
	}
	if o.slow && o.format == formatDMSetup {
		return fmt.Errorf("--slow: %w: the table of dmsetup shows such blocks as any other",
			exit.ErrUsage)
	}
	if cmd.Flags().Changed("block-size") && o.format != lists.Badblocks {
		return fmt.Errorf("--block-size: %w: %s has no blocks of another size", exit.ErrUsage,
			o.format)
	}
	if b := o.blockSize; b < 512 || b > 1<<16 || b&(b-1) != 0 {
		return fmt.Errorf("--block-size %d: %w: want a power of two from 512 to 65536", b,
			exit.ErrUsage)
	}
	if o.from, err = sectors("--offset", o.offset); err != nil {
		return err
	}
	if o.bytes, err = sectors("--length", o.length); err == nil && o.length != "" && o.bytes == 0 {
		err = fmt.Errorf("--length 0: %w: nothing is that long", exit.ErrUsage)
	}
	return err
}

// sectors reads a number of bytes that is one of whole sectors, as partitions are.
func sectors(flag, text string) (int64, error) {
	n, err := exactSize(flag, text)
	if err == nil && n%512 != 0 {
		err = fmt.Errorf("%s %s: %w: want bytes, a multiple of 512; partition tables count "+
			"sectors of 512 bytes", flag, text, exit.ErrUsage)
	}
	return n, err
}

// exactSize reads a number of bytes; an empty text is 0.
func exactSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	s, err := size.Parse(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", flag, err)
	}
	n, ok := s.Exact()
	if !ok {
		return 0, fmt.Errorf("%s %s: %w: want bytes, not a share", flag, text, exit.ErrUsage)
	}
	return n, nil
}

func (a *app) export(ctx context.Context, path string, o exportOptions) error {
	b, members, err := takeBackup(ctx, a, path, o.spares)
	if err != nil {
		return err
	}
	if b.Live {
		members = members[1:] // the first one is the device itself
	}
	l := b.Layout()
	total := int64(l.Blocks()) * int64(l.BlockSize())
	if o.from > total || o.bytes > total-o.from {
		return fmt.Errorf("%s: %w: --offset %d and --length %d go beyond the end of the device, "+
			"which has %d bytes", path, exit.ErrUsage, o.from, o.bytes, total)
	}
	if o.bytes == 0 {
		o.bytes = total - o.from
	}
	var slow []control.Range
	if o.slow {
		if slow, err = a.slowOf(ctx, path, b); err != nil {
			return err
		}
	}
	to, end := a.printing()
	defer end()
	switch o.format {
	case lists.Badblocks:
		return lists.WriteBadblocks(to, wantedBytes(b, slow, o), int64(o.blockSize))
	case lists.Ddrescue:
		return lists.WriteDdrescue(to, wantedBytes(b, slow, o), o.bytes, "Mapfile. Created by "+
			"ublk-remap export of "+readable.Text(b.Superblock.Name))
	case formatJSON:
		end() // it tells by itself
		a.json = true
		return a.printRemaps(func(f func(control.Remap) error) error { return remaps(b, slow, f) })
	case formatCSV:
		return exportCSV(to, b, slow)
	}
	return exportTable(to, b, members)
}

// wantedBytes gives the bytes that the flags ask for, counted from the offset, in order.
func wantedBytes(b *metadata.Backup, slow []control.Range,
	o exportOptions) iter.Seq[lists.Range] {
	size := int64(b.Layout().BlockSize())
	return func(yield func(lists.Range) bool) {
		give := func(block, count uint64) bool {
			from := max(0, int64(block)*size-o.from)
			to := min(o.bytes, int64(block+count)*size-o.from)
			return from >= to || yield(lists.Range{Start: from, End: to})
		}
		withSlow(b, slow, func(r metadata.Run) bool {
			return r.State == metadata.StateMapped && !r.Pending && !o.remapped ||
				give(r.Block, r.Count)
		}, func(g control.Range) bool { return give(g.Block, g.Count) })
	}
}

// remaps passes the table on as remap list prints it. Blocks that are slow to read are rows too;
// when they were found is not known.
func remaps(b *metadata.Backup, slow []control.Range, f func(control.Remap) error) (err error) {
	withSlow(b, slow, func(r metadata.Run) bool {
		row := control.Remap{Block: r.Block, Count: r.Count, State: r.State.String(),
			Cause: r.Cause.String(), Time: time.Unix(int64(r.Time), 0).UTC().Format(time.RFC3339)}
		if r.State == metadata.StateMapped {
			row.Spare = &r.Spare
		}
		if r.Pending {
			row.State = metadata.StatePending.String()
		}
		err = f(row)
		return err == nil
	}, func(g control.Range) bool {
		err = f(control.Remap{Block: g.Block, Count: g.Count, State: stateSlow,
			Cause: metadata.CauseScrub.String()})
		return err == nil
	})
	return err
}

func exportCSV(to io.Writer, b *metadata.Backup, slow []control.Range) error {
	w := csv.NewWriter(to)
	if err := w.Write([]string{"block", "count", "spare", "state", "cause", "time"}); err != nil {
		return err
	}
	if err := remaps(b, slow, func(r control.Remap) error {
		spare := ""
		if r.Spare != nil {
			spare = strconv.FormatUint(*r.Spare, 10)
		}
		return w.Write([]string{strconv.FormatUint(r.Block, 10), strconv.FormatUint(r.Count, 10),
			spare, r.State, r.Cause, r.Time})
	}); err != nil {
		return err
	}
	w.Flush()
	return w.Error()
}

// exportTable prints a table for dmsetup. paths are those of the set's devices.
func exportTable(to io.Writer, b *metadata.Backup, paths []string) error {
	for _, p := range paths {
		if strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r == '\\' }) {
			return fmt.Errorf("%s: %w: dmsetup takes no path with blanks; name it by another one, "+
				"such as a link to it", p, exit.ErrUsage)
		}
	}
	if len(paths) < len(b.Layout().Devices()) {
		return fmt.Errorf("%w: a device of the set is missing; attach it, or name it with "+
			"--spare-device", exit.ErrNotFound)
	}
	return lists.WriteDMTable(to, segments(b, paths))
}

// segments gives where all bytes of the device lie, in order.
func segments(b *metadata.Backup, paths []string) iter.Seq[lists.Segment] {
	l := b.Layout()
	size := int64(l.BlockSize())
	per := uint64(metadata.UnitSize / l.BlockSize())
	edges := []uint64{l.HeadBlocks(), l.Blocks() - l.TailBlocks(), l.Blocks()}
	return func(yield func(lists.Segment) bool) {
		give := func(from, to uint64, device string, offset int64) bool {
			return yield(lists.Segment{Start: int64(from) * size, Length: int64(to-from) * size,
				Device: device, Offset: offset})
		}
		at := uint64(0)
		home := func(to uint64) bool {
			for _, edge := range edges {
				if end := min(edge, to); at < end {
					device, offset := l.HomeOf(at)
					from := at
					at = end
					if !give(from, end, paths[device], offset) {
						return false
					}
				}
			}
			return true
		}
		more := true
		b.Runs(func(r metadata.Run) bool {
			if more = home(r.Block); !more {
				return false
			}
			at = r.Block + r.Count
			if r.Pending || r.State == metadata.StateLost {
				more = give(r.Block, at, "", 0)
				return more
			}
			for i := uint64(0); more && i < r.Count; {
				spare := r.Spare + i
				n := min(per-spare%per, r.Count-i) // spare units need not lie in a row
				device, offset := l.SpareOf(uint32(spare / per))
				more = give(r.Block+i, r.Block+i+n, paths[device], offset+int64(spare%per)*size)
				i += n
			}
			return more
		})
		if more {
			home(l.Blocks())
		}
	}
}
