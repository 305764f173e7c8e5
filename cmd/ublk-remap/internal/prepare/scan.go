package prepare

import (
	"context"
	"errors"
	"fmt"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/survey"
	"ublkremap/metadata"
)

// How many reads of a scan there are at once. A disk that rotates reads in order, and needs only
// the next few requests in its queue.
const (
	scanRotating = 4
	scanFlash    = 16
)

// Scan reads everything that the set will export, and every spare unit, after Survey. RemapFound
// then gives a spare unit to every block that does not read. Nothing is written, so a scan that is
// interrupted leaves the disks as they were, and can be begun again. It refuses a set whose spare
// region is too small for what does not read.
func (p *Preparation) Scan(ctx context.Context, progress Progress) error {
	p.scanned = true
	for _, d := range p.disks {
		d.Report(progress.Add)
	}
	for range surveyRounds {
		places := p.everything()
		progress.Expect(places)
		for i, list := range places {
			o := survey.ScanOptions{InFlight: scanFlash, Most: p.plan.SpareUnits()}
			if p.devs[i].Geometry().Rotational {
				o.InFlight = scanRotating
			}
			for _, r := range list {
				if err := p.disks[i].Scan(ctx, r, o); errors.Is(err, survey.ErrTooMany) {
					return fmt.Errorf("%w; the spare region has %d; use a larger --spare or "+
						"another disk", err, p.plan.SpareUnits())
				} else if err != nil {
					return err
				}
			}
		}
		if moved, err := p.resettle(); err != nil {
			return err
		} else if !moved {
			break
		}
		// What did not read lies where the set has its records: they go elsewhere, and that
		// place must be tried.
		if err := p.try(ctx, progress); err != nil {
			return err
		}
	}
	p.count()
	if good := p.plan.SpareUnits() - p.bad.Spares; p.bad.Units > good {
		return fmt.Errorf("%w: %d units of %d bytes are bad, and of %d spare units %d read; use "+
			"a larger --spare or another disk", survey.ErrTooMany, p.bad.Units, metadata.UnitSize,
			p.plan.SpareUnits(), good)
	}
	return nil
}

// everything returns what a scan reads: all places that hold data, by device, in order.
func (p *Preparation) everything() [][]badblocks.Range {
	sb := p.plan.Superblock()
	all := make([][]badblocks.Range, len(p.devs))
	end := sb.ExportedBytes
	if sb.TailStart != 0 {
		end = sb.TailStart
	}
	all[0] = append(all[0], badblocks.Range{Start: sb.HeadBytes, End: end})
	for _, r := range sb.Regions {
		all[r.Device] = append(all[r.Device], badblocks.Range{Start: r.Start,
			End: r.Start + r.Length})
	}
	for i := range all {
		all[i] = badblocks.Merge(all[i])
	}
	return all
}
