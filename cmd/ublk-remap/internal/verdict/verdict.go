// Package verdict gathers what package health judges a disk by: what its server has seen, and what
// the drives say of themselves. The verb health and the monitor ask the same questions by it.
package verdict

import (
	"context"
	"errors"
	"slices"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/drive"
	"ublkremap/internal/health"
	"ublkremap/internal/host"
	"ublkremap/internal/shell"
)

// drivesTime bounds how long the disks may take to tell of themselves.
const drivesTime = time.Minute

// Seen asks the server. If it cannot be asked, that is noted.
func Seen(ctx context.Context, r *control.Record, st *control.Status) (*health.Seen, error) {
	s := &health.Seen{
		Tripped: st.Breaker.State == "open", Reason: st.Breaker.Reason,
		TripKind: string(st.Breaker.Kind), Blocks: st.SizeBlocks, BlockSize: st.BlockSize,
		Pending: st.Pending, Lost: st.Lost, SpareFree: st.Spare.Free,
		Spare: st.Spare.Total, Transport: st.Errors.Transport, Now: time.Now(),
	}
	if st.Created != nil {
		s.Since = *st.Created
	}
	if st.ServerPID == 0 || st.State == control.StateUnreachable {
		s.Unknown = true
		return s, nil
	}
	perUnit := uint64(max(4096/max(st.BlockSize, 1), 1))
	err := control.NewClient(r.Name).EachRemap(ctx, func(row control.Remap) error {
		if !health.ByDisk(row.Cause) {
			return nil
		}
		b := health.Bad{Block: row.Block, Count: row.Count}
		if row.Spare != nil {
			b.Spares = (row.Count + perUnit - 1) / perUnit
		}
		// A time that cannot be read is long ago.
		b.At, _ = time.Parse(time.RFC3339, row.Time)
		s.Bad = append(s.Bad, b)
		return nil
	})
	if errors.Is(err, control.ErrNotRunning) {
		*s = health.Seen{Now: s.Now, Unknown: true}
		return s, nil
	}
	return s, err
}

// Drives has every disk below the set tell of itself. What smartctl is to take a disk for is
// said of the backing.
func Drives(ctx context.Context, r *control.Record, o drive.ReportOptions) (all []health.Drive) {
	ctx, cancel := context.WithTimeout(ctx, drivesTime)
	defer cancel()
	reports := host.Drives().Reports(ctx, []string{r.Backing}, o)
	o.Types = nil
	for _, d := range host.Drives().Reports(ctx, r.Spares, o) {
		if !slices.ContainsFunc(reports, func(b drive.Report) bool { return b.Path == d.Path }) {
			reports = append(reports, d)
		}
	}
	for _, d := range reports {
		said := health.Decode(d.Disk, d.Output)
		switch {
		case errors.Is(d.Err, drive.ErrAsleep):
			said.Note = d.Err.Error() + "; to ask it: " + shell.Command("health", r.Name, "--wake")
		case d.Err != nil:
			said.Note = d.Err.Error()
		}
		all = append(all, said)
	}
	return all
}
