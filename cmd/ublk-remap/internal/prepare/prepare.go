package prepare

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/survey"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

const (
	// spareSample is how many units of each spare region are tried.
	spareSample = 256
	// surveyRounds is how often a plan is made again because places that it relies on turned out to
	// be bad.
	surveyRounds = 6
)

// Options say which set is to be made.
type Options struct {
	// Params says how to lay it out. Bad is filled in by this package.
	Params metadata.PlanParams
	// Known are ranges of the backing that are known to be bad. Source says where that is known
	// from.
	Known  []badblocks.Range
	Source string
	// ReadOnly: places are tried only by reading.
	ReadOnly bool
	// Warn is called with messages for the user.
	Warn func(text string)
}

// Progress takes the progress of long operations. Any goroutine may call its methods.
type Progress interface {
	// Expect says which places are to be tried, by device. It includes those that were tried
	// already.
	Expect(places [][]badblocks.Range)
	// Add says that so many more bytes are done, and how many bad units were found so far.
	Add(n int64, bad int)
}

// Preparation is a set about to be made: its layout, and what is known to be bad on its disks.
type Preparation struct {
	devs  []*blockdev.Device
	o     Options
	plan  *metadata.Layout
	bad   badblocks.Entries
	disks []*survey.Disk
	found uint64 // units that were found to be bad
	// scanned: every place was read, so all known bad blocks get spare units at once
	scanned bool
}

// New lays a set out on devices, around places that are known to be bad. It touches no disk.
func New(devs []*blockdev.Device, o Options) (*Preparation, error) {
	p := &Preparation{devs: devs, o: o}
	if err := p.settle(); err != nil {
		return nil, err
	}
	return p, nil
}

// Plan is the layout of the set, as far as it is known now.
func (p *Preparation) Plan() *metadata.Layout { return p.plan }

// Bad is what is known to be bad now, in the form that the set will have it.
func (p *Preparation) Bad() badblocks.Entries { return p.bad }

// Found is how many bad units the survey and the scan found.
func (p *Preparation) Found() uint64 { return p.found }

// Write makes the set: superblocks and mirrors. It returns the places that it went around, also
// with an error.
func (p *Preparation) Write() ([]metadata.BadPlace, error) {
	devs := make([]metadata.Device, len(p.devs))
	for i, d := range p.devs {
		devs[i] = d
	}
	return metadata.CreateAround(devs, p.plan, p.bad.Entries)
}

// settle makes a plan from what is known to be bad, and works out what that means for the plan.
func (p *Preparation) settle() (err error) {
	p.o.Params.Bad = p.badRanges()
	if p.plan, err = metadata.Plan(p.o.Params); err != nil {
		return fmt.Errorf("%s: %w", p.devs[0].Path(), err)
	}
	now := metadata.Seconds(time.Now())
	if p.bad, err = badblocks.Place(p.o.Known, p.plan, now); err != nil {
		return fmt.Errorf("%s: %w", p.o.Source, err)
	}
	for i, d := range p.disks {
		more, err := badblocks.PlaceOn(uint8(i), d.Bad(), p.plan, now, metadata.CauseWrite)
		if err != nil {
			return fmt.Errorf("%s: %w", p.devs[i].Path(), err)
		}
		p.bad.Add(more)
		more, err = badblocks.PlaceOn(uint8(i), d.Unread(), p.plan, now, metadata.CauseScrub)
		if err != nil {
			return fmt.Errorf("%s: %w", p.devs[i].Path(), err)
		}
		p.bad.Add(more)
	}
	if err := fits(p.bad, p.plan); err != nil {
		if p.o.Source != "" {
			err = fmt.Errorf("%s: %w", p.o.Source, err)
		}
		return err
	}
	return nil
}

// resettle is settle for what has been found since. It reports whether anything has another place
// now.
func (p *Preparation) resettle() (moved bool, err error) {
	before := p.plan.Superblock()
	if err := p.settle(); err != nil {
		return false, err
	}
	after := p.plan.Superblock()
	return !slices.Equal(before.Regions, after.Regions) ||
		before.ExportedBytes != after.ExportedBytes, nil
}

// badRanges returns everything that is known to be bad.
func (p *Preparation) badRanges() []metadata.BadRange {
	var all []metadata.BadRange
	add := func(device int, list []badblocks.Range) {
		for _, r := range list {
			all = append(all, metadata.BadRange{Device: uint8(device), Start: r.Start, End: r.End})
		}
	}
	add(0, p.o.Known)
	for i, d := range p.disks {
		add(i, d.Bad())
		add(i, d.Unread())
	}
	return all
}

// Survey tries every place that the set will rely on: the superblocks, the mirrors, the displaced
// head and tail, and a sample of the spare units. If places are bad, it makes another plan around
// them, as far as possible, and tries the places of that plan.
func (p *Preparation) Survey(ctx context.Context, progress Progress) error {
	p.attach(progress.Add)
	return p.try(ctx, progress)
}

// try does what Survey does, on disks that are attached.
func (p *Preparation) try(ctx context.Context, progress Progress) error {
	// The spare region comes first, because the rest is of no use without it.
	if err := p.sampleSpares(ctx); err != nil {
		return err
	}
	for range surveyRounds {
		places := p.places()
		progress.Expect(places)
		for i, list := range places {
			for _, r := range list {
				if err := p.disks[i].Test(ctx, r); err != nil {
					return err
				}
			}
		}
		if moved, err := p.resettle(); err != nil {
			return err
		} else if !moved {
			break
		}
		// Another plan has another spare region.
		if err := p.sampleSpares(ctx); err != nil {
			return err
		}
	}
	p.count()
	return p.enough()
}

// count counts the units that were found to be bad.
func (p *Preparation) count() {
	p.found = 0
	for _, d := range p.disks {
		for _, r := range append(d.Bad(), d.Unread()...) {
			p.found += uint64(r.End-r.Start+metadata.UnitSize-1) / metadata.UnitSize
		}
	}
}

// attach prepares the disks for the survey.
func (p *Preparation) attach(progress func(int64, int)) {
	for i, d := range p.devs {
		var known []badblocks.Range
		if i == 0 {
			known = p.o.Known
		}
		p.disks = append(p.disks, survey.New(d, known, survey.Options{ReadOnly: p.o.ReadOnly,
			Progress: progress}))
	}
}

// SampleSpares only tries a sample of the spare units. On a disk with data nothing else may be
// written.
func (p *Preparation) SampleSpares(ctx context.Context) error {
	p.attach(nil)
	return p.sampleSpares(ctx)
}

// enough refuses a disk that has no room for the metadata, before any of the old contents are lost.
func (p *Preparation) enough() error {
	bad := p.badRanges()
	hit := func(device int, off, length int64) bool {
		return slices.ContainsFunc(bad, func(b metadata.BadRange) bool {
			return int(b.Device) == device && b.Start < off+length && off < b.End
		})
	}
	for i, d := range p.devs {
		good, need := 0, 1
		places := p.plan.SuperblockPlaces(uint8(i))
		if i == 0 {
			need = 2
		}
		for _, off := range places {
			if !hit(i, off, metadata.PageSize) {
				good++
			}
		}
		if good < need {
			return fmt.Errorf("%w: the superblock must be in %d places of %s, and of those it "+
				"can be in (%v) %d are good; use another disk",
				metadata.ErrBadPlaces, need, d.Path(), places, good)
		}
	}
	sb := p.plan.Superblock()
	for _, r := range sb.Regions {
		if r.Kind == metadata.RegionMirror && r.Device == 0 && !hit(0, r.Start, r.Length) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s has no room of %d bytes without a bad place in its first MiBs, nor "+
		"where its spare region is, for a copy of the records; use another disk",
		metadata.ErrBadPlaces, p.devs[0].Path(), 2*sb.SlotBytes+sb.LogBytes)
}

// places returns the places that the plan relies on, by device, in order.
func (p *Preparation) places() [][]badblocks.Range {
	sb := p.plan.Superblock()
	all := make([][]badblocks.Range, len(p.devs))
	for i := range p.devs {
		for _, off := range p.plan.SuperblockPlaces(uint8(i)) {
			all[i] = append(all[i], badblocks.Range{Start: off, End: off + metadata.PageSize})
		}
	}
	for _, r := range sb.Regions {
		if r.Kind != metadata.RegionSpare {
			all[r.Device] = append(all[r.Device], badblocks.Range{Start: r.Start,
				End: r.Start + r.Length})
		}
	}
	for i := range all {
		all[i] = badblocks.Merge(all[i])
	}
	return all
}

// errSpares is returned for a spare region that could not hold the blocks that must go there.
var errSpares = errors.New("the spare region cannot be used")

// sampleSpares refuses a set whose spare region takes no writes. It warns if most of the spare
// units are bad: such a spare region is better than none, and there may be no other disk.
func (p *Preparation) sampleSpares(ctx context.Context) error {
	for _, r := range p.plan.SpareRegions() {
		s, err := p.disks[r.Device].Sample(ctx, badblocks.Range{Start: r.Start,
			End: r.Start + r.Length}, spareSample)
		if err != nil {
			return err
		}
		do := "be written and read back"
		if p.o.ReadOnly {
			do = "be read"
		}
		where := fmt.Sprintf("from byte %d to %d of %s", r.Start, r.Start+r.Length,
			p.devs[r.Device].Path())
		const mend = "use another disk, or another --spare-device"
		switch {
		case s.Tried == 0 && s.Known > 0:
			return fmt.Errorf("%w: all units %s are known to be bad; %s", errSpares, where, mend)
		case s.Tried > 0 && s.Bad == s.Tried:
			return fmt.Errorf("%w: of %d units that were tried, %s, none can %s; %s", errSpares,
				s.Tried, where, do, mend)
		case 2*s.Bad > s.Tried:
			p.o.Warn(fmt.Sprintf("the spare region is mostly bad: of %d units that were tried, "+
				"%s, %d cannot %s; better %s", s.Tried, where, s.Bad, do, mend))
		}
	}
	return nil
}

// fits refuses a set that could not begin with the places that are known to be bad.
func fits(bad badblocks.Entries, plan *metadata.Layout) error {
	if err := metadata.CheckInitial(plan, bad.Entries); err != nil {
		return fmt.Errorf("%w: the metadata cannot hold what is known to be bad; take more spare "+
			"space: %w", exit.ErrUsage, err)
	}
	return nil
}
