package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/prepare"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

type createOptions struct {
	spare, spareDevice, name string
	badblocks                string
	badblocksSize            int
	fromDMRemap              string
	taken                    []metadata.Taken // what fromDMRemap holds
	inPlace, scan            bool
	force, dryRun, yes       bool
}

// created is what create prints.
type created struct {
	Name        string `json:"name"`
	UUID        string `json:"uuid"`
	Backing     string `json:"backing"`
	SpareDevice string `json:"spare_device"`
	BlockSize   int    `json:"block_size"`
	SizeBlocks  uint64 `json:"size_blocks"`
	SizeBytes   int64  `json:"size_bytes"`
	SpareUnits  uint64 `json:"spare_units"`
	SpareBytes  int64  `json:"spare_bytes"`
	HeadBytes   int64  `json:"head_bytes"`
	// number of blocks of the exported device that are known to be bad
	BadBlocks uint64 `json:"bad_blocks"`
	// number of units of 4 KiB, among those that were tried, that do not hold data
	FoundBad  uint64   `json:"found_bad"`
	Scanned   bool     `json:"scanned"`    // every place was read
	BadSpares uint64   `json:"bad_spares"` // spare units that are known to be bad
	BadPlaces []string `json:"bad_places"` // where metadata could not be written
	Replaced  []string `json:"replaced"`   // what was on the devices before
	InPlace   bool     `json:"in_place"`
	Kept      []string `json:"kept"`        // with --in-place: what is on the disk and stays there
	Lost      uint64   `json:"lost_blocks"` // blocks of the head that could not be read
	// blocks of the head and the tail that went to the spare region at once
	Moved uint64 `json:"moved_blocks"`
	// blocks whose data was taken over from dm-remap's spare device, and those that have no copy
	// there that can be trusted
	Taken   uint64 `json:"taken_blocks"`
	Untaken uint64 `json:"untaken_blocks"`
	Resumed bool   `json:"resumed"` // an interrupted conversion has been finished
	DryRun  bool   `json:"dry_run"`
}

func createCommand(a *app) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create BACKING",
		Short: "Prepare a disk: write the metadata and set the spare region aside",
		Long: `Prepare a disk, or a regular file, to be served by start: write format v4 to it
and set its spare region aside. The exported device is that much smaller than
the disk, unless the spare region is on a device of its own.

Every place that the set relies on is tried before anything is changed: what
reads is written back as it is. Bad places are gone around. If that is not
possible the disk is refused.

A disk that carries a file system, a partition table, a label of a RAID or of a
volume manager, or ublk-remap's own format is refused, unless --force says that
all of that may go.

With --scan the whole disk is read, which takes hours on a large one. Blocks
that do not read get spare units full of zeroes, so the new device has no block
that cannot be read. If it is interrupted, nothing was changed: run it again.

With --in-place the disk keeps its data: the exported device shows the same
bytes at the same offsets. Without a spare device the end of the disk must be
free. A file system that reaches into it is refused, with the size to shrink it
to. If a create --in-place is interrupted, run it again to finish it, or undo it
with release.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return create(cmd.Context(), a, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.spare, "spare", "", "`SIZE` of the spare region: 1%, 512MiB, …; taken exactly "+
		"(default 1%, at most 16GiB)")
	f.StringVar(&o.spareDevice, "spare-device", "", "put the spare region on `DEVICE`; the disk "+
		"keeps its size")
	f.StringVar(&o.name, "name", "", "`NAME` of the device (default made from its UUID)")
	f.StringVar(&o.badblocks, "badblocks", "", "`FILE` of blocks known to be bad, as "+
		"badblocks(8), MD or null_blk write it; - is standard input")
	f.IntVar(&o.badblocksSize, "badblocks-size", 1024, "size in `BYTES` of the blocks that the "+
		"numbers of --badblocks count")
	f.BoolVar(&o.inPlace, "in-place", false, "keep the data that is on the disk")
	f.StringVar(&o.fromDMRemap, "from-dm-remap", "", "with --in-place: the disk is the main "+
		"device of dm-remap, and `DEVICE` is its spare device; take over what it holds")
	f.BoolVar(&o.scan, "scan", false, "read the whole disk, and put zeroed spare units in the "+
		"place of what does not read")
	f.BoolVar(&o.force, "force", false, "go on although there is something on the device")
	dryRunFlag(cmd, &o.dryRun)
	yesFlag(cmd, &o.yes)
	a.jsonFlag(cmd)
	return cmd
}

func create(ctx context.Context, a *app, path string, o createOptions) error {
	if o.inPlace && o.scan {
		return fmt.Errorf("--scan with --in-place: %w: blocks that do not read would be replaced "+
			"by zeroes, and the data that is kept may lie there", exit.ErrUsage)
	}
	if o.fromDMRemap != "" && !o.inPlace {
		return fmt.Errorf("--from-dm-remap: %w: it keeps data, so it needs --in-place",
			exit.ErrUsage)
	}
	devs, err := openToCreate(ctx, path, o)
	defer func() {
		for _, d := range devs {
			d.Close()
		}
	}()
	if err != nil {
		return err
	}
	if o.inPlace {
		return convert(ctx, a, devs, o)
	}
	p, err := a.planSet(devs, o)
	if err != nil {
		return err
	}
	replaced, err := a.mayReplace(devs, o)
	if err != nil {
		return err
	}
	// Up to this point nothing is changed on the disk. The trial that follows changes nothing
	// either.
	bar := a.progress("trying the places that the set relies on")
	err = p.Survey(ctx, survey{bar})
	bar.End()
	if err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", path, err)
	}
	if err := a.scanDisks(ctx, p, path, o); err != nil {
		return err
	}
	a.warnOfFewSpares(p.Bad(), p.Plan())
	out := describe(devs, p.Plan(), o)
	out.Scanned = o.scan
	out.Replaced = append(out.Replaced, replaced...)
	out.FoundBad, out.BadBlocks, out.BadSpares = p.Found(), p.Bad().Blocks, p.Bad().Spares
	if o.dryRun {
		return a.printCreated(out)
	}
	if err := a.writeSet(ctx, p, path, devs, &out); err != nil {
		return err
	}
	a.rescan(devs...)
	return a.printCreated(out)
}

// writeSet writes a new set, as it was prepared.
func (a *app) writeSet(ctx context.Context, p *prepare.Preparation, path string,
	devs []*blockdev.Device, out *created) (err error) {
	bar := a.progress("writing the metadata of " + path)
	defer bar.End()
	if err := p.Blank(len(out.Replaced) > 0); err != nil {
		return err
	}
	if out.Moved, err = p.RemapFound(ctx); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out.BadBlocks, out.BadSpares = p.Bad().Blocks, p.Bad().Spares
	around, err := p.Write()
	bar.End()
	a.tellBadPlaces(devs, around, out, err == nil)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// scanDisks reads all that will be exported, with --scan.
func (a *app) scanDisks(ctx context.Context, p *prepare.Preparation, path string,
	o createOptions) error {
	if !o.scan {
		return nil
	}
	bar := a.progress("reading the disk")
	defer bar.End()
	if err := p.Scan(ctx, survey{bar}); err != nil {
		return fmt.Errorf("%s: %w; nothing was changed, so it can be run again", path, err)
	}
	return nil
}

// openToCreate opens the devices of a set that will be made, the backing first. If it fails it
// returns those that are open, with the error.
func openToCreate(ctx context.Context, path string, o createOptions) ([]*blockdev.Device, error) {
	backing, err := blockdev.Open(ctx, path, blockdev.Options{})
	if err != nil {
		return nil, err
	}
	devs := []*blockdev.Device{backing}
	if err := host.NotAwaited(path, backing); err != nil {
		return devs, err
	}
	if o.spareDevice != "" {
		spare, err := blockdev.Open(ctx, o.spareDevice, blockdev.Options{})
		if err != nil {
			return devs, err
		}
		devs = append(devs, spare)
	}
	for _, d := range devs {
		if err := host.NotServed(d); err != nil {
			return devs, err
		}
	}
	return devs, nil
}

// mayReplace asks whether what is on the devices may be overwritten. It returns what that is.
func (a *app) mayReplace(devs []*blockdev.Device, o createOptions) ([]string, error) {
	var replaced []string
	for _, d := range devs {
		found, err := prepare.Inspect(d)
		if err != nil && !o.force {
			return nil, err
		}
		replaced = append(replaced, found...)
	}
	if len(replaced) == 0 || o.yes || o.dryRun {
		return replaced, nil
	}
	return replaced, a.confirm("This destroys " + strings.Join(replaced, ", and ") + ".")
}

// tellBadPlaces notes the places that the metadata avoids, each once. With warn it also warns of
// them. An error names them itself.
func (a *app) tellBadPlaces(devs []*blockdev.Device, bad []metadata.BadPlace, out *created,
	warn bool) {
	for _, p := range bad {
		text := devs[p.Device].Path() + ": " + p.String()
		if slices.Contains(out.BadPlaces, text) {
			continue
		}
		out.BadPlaces = append(out.BadPlaces, text)
		if warn {
			a.log.Warn().Msg(text)
		}
	}
}

// describe returns what is printed about a plan.
func describe(devs []*blockdev.Device, plan *metadata.Layout, o createOptions) created {
	sb := plan.Superblock()
	out := created{
		Name: sb.Name, UUID: sb.UUID.String(), Backing: devs[0].Path(), BlockSize: plan.BlockSize(),
		SizeBlocks: plan.Blocks(),
		SizeBytes:  int64(plan.Blocks()) * int64(plan.BlockSize()), SpareUnits: plan.SpareUnits(),
		SpareBytes: int64(plan.SpareUnits()) * metadata.UnitSize, HeadBytes: sb.HeadBytes,
		BadPlaces: []string{}, Replaced: []string{}, Kept: []string{}, DryRun: o.dryRun,
	}
	if len(devs) > 1 {
		out.SpareDevice = devs[1].Path()
	}
	return out
}

// planSet lays out the set by the flags, around the list of bad blocks. The exported blocks are as
// large as the largest blocks of its devices.
func (a *app) planSet(devs []*blockdev.Device, o createOptions) (*prepare.Preparation, error) {
	params, err := planParams(devs, o)
	if err != nil {
		return nil, err
	}
	p := prepare.Options{Params: params, ReadOnly: o.dryRun, Source: o.badblocks,
		Warn: func(text string) { a.log.Warn().Msg(text) }}
	list, err := a.knownBad(devs[0].Size(), o)
	if err != nil {
		return nil, err
	}
	if list != nil {
		p.Known = list.Ranges
	}
	set, err := prepare.New(devs, p)
	if err != nil {
		return nil, err
	}
	a.warnOfBlockSize(list, devs[0].Size(), o)
	return set, nil
}

// planParams returns the parameters for the layout of a set. The UUIDs are drawn here, so that two
// plans with the same parameters are the same.
func planParams(devs []*blockdev.Device, o createOptions) (p metadata.PlanParams, err error) {
	// The format allows more. But people must type a name, and terminals show it.
	if strings.ContainsFunc(o.name, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r)
	}) {
		return p, fmt.Errorf("--name %q: %w: want characters that can be printed", o.name,
			exit.ErrUsage)
	}
	p = metadata.PlanParams{
		BackingSize: devs[0].Size(), Name: o.name, Created: metadata.Seconds(time.Now()),
		UUID: uuid.New(), DeviceUUIDs: [2]uuid.UUID{uuid.New(), uuid.New()},
	}
	if p.Name == "" {
		p.Name = "remap-" + p.UUID.String()[:8]
	}
	for i, d := range devs {
		g := d.Geometry()
		p.DeviceBlockSizes[i] = g.LogicalBlock
		p.BlockSize = max(p.BlockSize, g.LogicalBlock)
		p.PhysicalBlockSize = max(p.PhysicalBlockSize, g.PhysicalBlock)
	}
	if len(devs) > 1 {
		p.SpareDeviceSize = devs[1].Size()
	}
	if o.spare != "" {
		s, err := size.Parse(o.spare)
		if err != nil {
			return p, fmt.Errorf("--spare %w", err)
		}
		if n, exact := s.Exact(); exact && n%metadata.UnitSize != 0 {
			return p, fmt.Errorf("--spare %s: %w: not a multiple of %d bytes", s, exit.ErrUsage,
				metadata.UnitSize)
		}
		if p.SpareBytes = s.Of(devs[0].Size(), metadata.UnitSize); p.SpareBytes == 0 {
			return p, fmt.Errorf("--spare %s: %w: that is less than one unit of %d bytes", s,
				exit.ErrUsage, metadata.UnitSize)
		}
	}
	return p, nil
}

func (a *app) printCreated(c created) error {
	if a.json {
		return a.printJSON(c)
	}
	verb := "prepared"
	if c.InPlace {
		verb = "converted in place"
	}
	if c.DryRun {
		verb = "would be " + verb
	}
	for _, k := range c.Kept {
		if _, err := fmt.Fprintf(a.out, "keeps %s\n", readable.Text(k)); err != nil {
			return err
		}
	}
	for _, r := range c.Replaced {
		if _, err := fmt.Fprintf(a.out, "replaces %s\n", readable.Text(r)); err != nil {
			return err
		}
	}
	rows := [][]string{
		{c.Backing, verb + " as " + c.Name + " (" + c.UUID + ")"},
		{"exports", fmt.Sprintf("%s, %s blocks of %d bytes", readable.Bytes(c.SizeBytes),
			readable.Number(c.SizeBlocks), c.BlockSize)},
		{"spare", fmt.Sprintf("%s, %s units", readable.Bytes(c.SpareBytes),
			readable.Number(c.SpareUnits))},
	}
	if c.SpareDevice != "" {
		rows[2][1] += " on " + c.SpareDevice
	}
	rows = append(rows, c.badRows()...)
	if c.InPlace && c.SpareDevice == "" {
		rows = append(rows, []string{"uses", fmt.Sprintf("the bytes from %d on", c.SizeBytes)})
	}
	rows = append(rows, c.takenRows()...)
	if c.Lost > 0 {
		rows = append(rows, []string{"unreadable", readable.Number(c.Lost) +
			" blocks of the first " + readable.Bytes(c.HeadBytes) +
			"; they answer errors until they are written"})
	}
	if c.Moved > 0 {
		rows = append(rows, []string{"remapped", readable.Number(c.Moved) +
			" blocks whose place was bad"})
	}
	if !c.DryRun {
		rows = append(rows, []string{"next", shell.Command("start", c.Backing)})
	}
	return a.table(rows)
}

// badRows says what is known to be bad, as rows for a person.
func (c *created) badRows() (rows [][]string) {
	if c.BadBlocks > 0 {
		rows = append(rows, []string{"known bad", readable.Number(c.BadBlocks) + " blocks"})
	}
	if c.BadSpares > 0 {
		rows = append(rows, []string{"bad spares", readable.Number(c.BadSpares) +
			" units of the spare region are known to be bad"})
	}
	if c.FoundBad > 0 {
		rows = append(rows, []string{"found bad", readable.Number(c.FoundBad) +
			" units of 4 KiB among the places that were tried"})
	}
	if n := len(c.BadPlaces); n > 0 {
		rows = append(rows, []string{"bad places", readable.Number(uint64(n)) +
			" for metadata; see: " +
			shell.Command("metadata", "check", c.Backing)})
	}
	return rows
}
