package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/rescue"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/lists"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

type importOptions struct {
	format    string
	blockSize int
	offset    string
	of        string
	status    string
	markOnly  bool
	dryRun    bool
	spares    []string
}

// imported is what import prints as JSON. Listed is the number of blocks that the list is about;
// each is counted in Marked, Known or Spared.
type imported struct {
	Device string `json:"device"` // the backing, if no server has it
	Format string `json:"format"`
	Listed uint64 `json:"listed"` // blocks of the device
	Marked uint64 `json:"marked"` // became pending
	Known  uint64 `json:"known"`  // were pending or lost already
	Spared uint64 `json:"spared"` // lived in the spare region already
	// of those that are pending: Moved still read, and live in the spare region now; Stay still
	// read, and stay at home
	Moved      uint64 `json:"moved"`
	Stay       uint64 `json:"stay"`
	Unreadable uint64 `json:"unreadable"`
	// of a list of the disk: what is not the device's data
	SpareUnits    uint64 `json:"spare_units"`
	MetadataBytes uint64 `json:"metadata_bytes"`
	DryRun        bool   `json:"dry_run"`

	// why blocks stay at home, or, of a dry run, why they may not be marked; empty: not known
	why string
}

func importCommand(a *app) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import DEV|NAME|BACKING FILE|- --format FORMAT",
		Short: "Take over another tool's list of bad blocks",
		Long: `Take over another tool's list of bad blocks, while the device is in use. The
blocks become pending: they are read as before, and their next write goes to the
spare region at once. Then each is read; what still reads moves to the spare
region, and is read back there before its home is given up. So no data is lost,
also if the list is wrong.

If the set is stopped its blocks only become pending, as by --mark-only. Run it
again once the set is started, to have what still reads moved.

All of the list is read before anything is changed. An import that was
interrupted is continued by running it again.`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.importList(cmd.Context(), args[0], args[1], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.format, "format", "", "`FORMAT` of the list: badblocks, ddrescue, smart, "+
		"nvme or dm-remap")
	f.IntVar(&o.blockSize, "block-size", 0, "`BYTES` of the blocks that the numbers count "+
		"(default 1024 for badblocks, else what the list says, or 512)")
	f.StringVar(&o.offset, "offset", "", "`BYTE` of the device where block 0 of the list lies: "+
		"the start of a partition")
	f.StringVar(&o.of, "of", "", "`device|disk`: the list is about what the device shows, or "+
		"about the disk below it (default disk for smart, nvme and dm-remap, else device)")
	f.StringVar(&o.status, "status", lists.DdrescueFailed,
		"`CHARS` of the areas of a ddrescue map that are bad")
	f.BoolVar(&o.markOnly, "mark-only", false, "do not read the blocks: all become pending, and "+
		"what reads stays at home until it is written")
	dryRunFlag(cmd, &o.dryRun)
	spareFlag(cmd, &o.spares)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) importList(ctx context.Context, dev, file string, o importOptions) error {
	if o.format == "" {
		return fmt.Errorf("%w: --format is missing: want badblocks, ddrescue, smart, nvme or "+
			"dm-remap", exit.ErrUsage)
	}
	switch o.of {
	case "device", "disk":
	case "":
		o.of = "device"
		if o.format != lists.Badblocks && o.format != lists.Ddrescue {
			o.of = "disk"
		}
	default:
		return fmt.Errorf("--of %q: %w: want device or disk", o.of, exit.ErrUsage)
	}
	r, err := a.host().Lookup(dev)
	if errors.Is(err, host.ErrNotFound) || err == nil && !control.Owned(r.Name) &&
		!host.Present(r) {
		return a.importStopped(ctx, dev, file, o)
	}
	if err != nil {
		return err
	}
	out := imported{Device: r.Device, Format: o.format, DryRun: o.dryRun}
	ranges, err := a.listed(importTarget{r.Backing, int64(r.Blocks), int64(r.BlockSize),
		func() (*metadata.Layout, error) {
			b, _, err := takeBackup(ctx, a, r.Name, nil)
			if err != nil {
				return nil, err
			}
			return b.Layout(), nil
		}}, file, o, &out)
	if err != nil {
		return err
	}
	for _, g := range ranges {
		out.Listed += g.Count
	}
	take := a.takeOver
	if o.dryRun {
		take = wouldTakeOver
	}
	if err := take(ctx, r, ranges, o, &out); err != nil {
		return err
	}
	if err := a.printImported(out, o); err != nil {
		return err
	}
	return out.stayed(r)
}

// stayed is the error that blocks stay at home which still read.
func (i *imported) stayed(r *control.Record) error {
	if i.Stay == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w: %s blocks still read and stay at home, where they may fail (%s); "+
		"copy them elsewhere, and see: %s", r.Device, rescue.ErrStay, readable.Number(i.Stay),
		cmp.Or(i.why, "no spare unit took them"), shell.Command("status", r.Name))
}

// importTarget is what a list is about.
type importTarget struct {
	backing      string
	blocks, size int64 // of the device, and the bytes of a block
	layout       func() (*metadata.Layout, error)
}

// listed reads a list, and returns which blocks of the device it is about, in order.
func (a *app) listed(r importTarget, file string, o importOptions, out *imported) ([]control.Range,
	error) {
	offset, err := sectors("--offset", o.offset)
	if err != nil {
		return nil, err
	}
	options := lists.Options{Format: o.format, Block: o.blockSize, Offset: offset,
		Size: r.blocks * r.size, Status: o.status, BlockFlag: "--block-size"}
	if o.of == "device" {
		list, _, err := a.readList(file, options)
		if err != nil {
			return nil, err
		}
		a.warnOfListBlocks(list, options)
		return blocksOf(list.Ranges, r.size), nil
	}
	l, err := r.layout()
	if err != nil {
		return nil, err
	}
	options.Size, options.Whole = l.Devices()[0].Size, true
	if o.offset == "" {
		options.Offset = -blockdev.PartitionStart(r.backing)
	}
	list, name, err := a.readList(file, options)
	if err != nil {
		return nil, err
	}
	a.warnOfOtherDisk(list, r.backing, options)
	placed, err := badblocks.Place(list.Ranges, l, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out.SpareUnits, out.MetadataBytes = placed.Spares, placed.Metadata
	return entryBlocks(placed.Entries, uint64(metadata.UnitSize/l.BlockSize())), nil
}

// readList reads a list. name is what errors call it.
func (a *app) readList(file string, o lists.Options) (list *lists.List, name string, err error) {
	err = a.readInput(file, func(in io.Reader, called string) (err error) {
		if f, ok := in.(*os.File); ok && o.Format == lists.DMRemap {
			// A pipe cannot be read at an offset.
			if _, err := f.Seek(0, io.SeekCurrent); err != nil {
				in = io.MultiReader(f)
			}
		}
		name = called
		list, err = lists.Read(in, name, o)
		return err
	})
	return list, name, err
}

// warnOfOtherDisk warns of a list that says that its disk is larger or smaller than the one that
// the set is on.
func (a *app) warnOfOtherDisk(list *lists.List, disk string, o lists.Options) {
	if list.Disk != 0 && list.Disk != o.Size && o.Offset == 0 {
		a.log.Warn().Msgf("the list is about a disk of %d bytes, and %s has %d: it may be of "+
			"another disk", list.Disk, readable.Text(disk), o.Size)
	}
}

// warnOfListBlocks warns of a list that may have been read with the wrong block size.
func (a *app) warnOfListBlocks(list *lists.List, o lists.Options) {
	if list.Pairs && list.Block != 512 {
		a.log.Warn().Int("block-size", list.Block).Msg("the list has lines of two numbers: those " +
			"of MD and null_blk count sectors of 512 bytes")
	}
	if o.Format == lists.Badblocks && o.Block == 0 && list.End > 0 && list.End <= o.Size/4 {
		a.log.Warn().Int("block-size", list.Block).Msgf("the list ends at %s of %s: if its blocks "+
			"are larger than %d bytes, say so with --block-size", readable.Bytes(list.End),
			readable.Bytes(o.Size), list.Block)
	}
}

// blocksOf returns the blocks of size bytes that ranges touch. The ranges are in order.
func blocksOf(ranges []lists.Range, size int64) []control.Range {
	out := make([]control.Range, 0, len(ranges))
	for _, r := range ranges {
		from, to := uint64(r.Start/size), uint64((r.End+size-1)/size)
		if n := len(out); n > 0 && from <= out[n-1].Block+out[n-1].Count {
			out[n-1].Count = max(out[n-1].Count, to-out[n-1].Block)
			continue
		}
		out = append(out, control.Range{Block: from, Count: to - from})
	}
	return out
}

// entryBlocks returns the blocks that pending entries are about, in order.
func entryBlocks(entries []metadata.Entry, per uint64) []control.Range {
	var out []control.Range
	add := func(block, count uint64) {
		if n := len(out); n > 0 && out[n-1].Block+out[n-1].Count == block {
			out[n-1].Count += count
			return
		}
		out = append(out, control.Range{Block: block, Count: count})
	}
	for _, e := range entries {
		if e.State != metadata.StatePending {
			continue
		}
		for i := range uint64(e.Count) {
			for k := range per {
				if e.Mask>>k&1 != 0 {
					add((e.Unit+i)*per+k, 1)
				}
			}
		}
	}
	return out
}

// takeOver marks the blocks, and moves those that read.
func (a *app) takeOver(ctx context.Context, r *control.Record, ranges []control.Range,
	o importOptions, out *imported) error {
	client := control.NewClient(r.Name)
	size := int64(r.BlockSize)
	bar := a.progress(r.Device + ": marking")
	err := rescue.Mark(ctx, client, ranges, func(done control.MarkReply) {
		out.Marked, out.Known, out.Spared = done.Marked, done.Known, done.Spared
		bar.Set(int64(done.Marked+done.Known+done.Spared)*size, int64(out.Listed)*size)
	})
	bar.End()
	if err != nil || o.markOnly {
		return a.sayImported(err, *out)
	}
	bar = a.progress(r.Device + ": reading what may still read")
	err = rescue.Run(ctx, client, r.Device, ranges, int(size), func(done rescue.Done) {
		out.Moved, out.Stay, out.Unreadable = done.Moved, done.Stay, done.Unreadable
		out.why = done.Why
		bar.Set(int64(done.Looked)*size, int64(out.Listed)*size)
	})
	bar.End()
	return a.sayImported(err, *out)
}

// wouldTakeOver counts what takeOver would do. It reads nothing, because a block that does not read
// becomes pending by that.
func wouldTakeOver(ctx context.Context, r *control.Record, ranges []control.Range,
	_ importOptions, out *imported) error {
	s, err := standingOf(ctx, r, ranges)
	if err != nil {
		return err
	}
	out.Known, out.Spared, out.Marked = s.bad(), s.mapped, s.home()
	if s.all == 0 {
		return nil
	}
	st, err := control.NewClient(r.Name).Status(ctx)
	if err != nil {
		return err
	}
	if err := couldFail(r, st, 0); err != nil {
		return err
	}
	return out.fits(r, st.Table, min(uint64(len(ranges)), out.Marked))
}

// fits compares the runs of blocks that would be marked with the room in the remap table. The error
// is that there is too little, and no more can be made.
func (i *imported) fits(r *control.Record, t *control.Table, runs uint64) error {
	if t == nil || t.Entries+runs <= t.Max {
		return nil
	}
	room := fmt.Sprintf("the remap table has room for %s runs of blocks, and about %s would "+
		"be added", readable.Number(t.Max-min(t.Max, t.Entries)), readable.Number(runs))
	if t.Growth == "no room" {
		return fmt.Errorf("%s: %w: %s; the disk has no room for a larger one", r.Device,
			control.ErrFailed, room)
	}
	i.why = room + ": a larger one is made if the disk has room for it"
	return nil
}

// sayImported adds to an error how far the import got.
func (a *app) sayImported(err error, out imported) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w; of %s blocks %s were marked and %s moved; run it again "+
		"to go on", out.Device, err, readable.Number(out.Listed), readable.Number(out.Marked),
		readable.Number(out.Moved))
}

func (a *app) printImported(out imported, o importOptions) error {
	if a.json {
		return a.printJSON(out)
	}
	format := "%s: of %s listed blocks %s are pending now, %s were known, %s live in the spare " +
		"region\n"
	if out.DryRun {
		format = "%s: of %s listed blocks %s would become pending, %s are known, %s live in the " +
			"spare region\n"
	}
	text := fmt.Sprintf(format, readable.Text(out.Device), readable.Number(out.Listed),
		readable.Number(out.Marked), readable.Number(out.Known), readable.Number(out.Spared))
	switch {
	case o.markOnly:
	case out.DryRun:
		text += "would read those that do not live there, and move there what reads\n"
	default:
		text += fmt.Sprintf("%s still read and were moved to the spare region, %s do not read\n",
			readable.Number(out.Moved), readable.Number(out.Unreadable))
	}
	if out.SpareUnits > 0 || out.MetadataBytes > 0 {
		text += fmt.Sprintf("%s spare units and %s of metadata are listed, and left to the "+
			"server: what fails there is gone around\n", readable.Number(out.SpareUnits),
			readable.Bytes(int64(out.MetadataBytes)))
	}
	if out.DryRun && out.why != "" {
		text += out.why + "\n"
	}
	_, err := io.WriteString(a.out, text)
	return err
}
