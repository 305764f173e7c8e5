package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// unrecorded looks for devices of this set that no record names, other than known. Devices that
// were never started, or were stopped, are stale. A device that waits for a server is returned,
// with the record that it should have.
//
// Such a device is recovered only if no other disk can be meant. It is certain that it has no
// server only later, when the disk has been opened exclusively.
func (s *server) unrecorded(ctx context.Context, known ...int) (*ublk.DeviceInfo, *control.Record,
	error) {
	all, err := s.ctl.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	var found []ublk.DeviceInfo
	for _, d := range all {
		switch {
		case d.Tag != host.TagOf(s.uuid) || slices.Contains(known, d.ID) ||
			slices.Contains(s.stale, d.ID):
		case d.State == ublk.StateDead:
			s.stale = append(s.stale, d.ID)
		default:
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return nil, nil, nil
	case len(found)+len(known) > 1:
		return nil, nil, fmt.Errorf("%w: %s is of the same disk; only one of them has its data: "+
			"see which, and stop the others by their number",
			ErrRecovery, found[0].BlockPath())
	}
	info := found[0]
	other, _, err := set.Find(ctx, s.uuid)
	switch {
	case errors.Is(err, set.ErrAmbiguous):
		return nil, nil, fmt.Errorf("%w: %s waits for its disk: %w", ErrRecovery, info.BlockPath(),
			err)
	case err == nil && !blockdev.SameDisk(other, s.cfg.Backing):
		return nil, nil, fmt.Errorf("%w: %s waits for its disk, which may be %s", ErrRecovery,
			info.BlockPath(), other)
	case err != nil && !errors.Is(err, metadata.ErrNotFound): // set.Find does not find a file
		return nil, nil, err
	}
	// Its server may be about to end. If that server lives, then it serves another disk than this
	// one, or its files in the runtime directory were removed, or it is in another pid namespace.
	if err := host.AwaitDead(ctx, s.ctl, info.ID, nil, s.waiter()); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", s.cfg.Backing, err)
	}
	p, err := s.ctl.GetParams(ctx, info.ID)
	if err != nil {
		return nil, nil, err
	}
	s.log.Warn().Str("device", info.BlockPath()).Msg("the record of this device is lost; it is " +
		"known by its tag")
	return &info, &control.Record{
		Name: s.name, UUID: s.uuid, ID: info.ID, Device: info.BlockPath(), Backing: s.cfg.Backing,
		PID:    max(info.PID, 0),
		Queues: info.Queues, Depth: info.Depth, MaxIO: info.MaxIO,
		BlockSize: int(p.LogicalBlockSize), Blocks: uint64(p.Size) / uint64(p.LogicalBlockSize),
		ZeroCopy: info.ZeroCopy(), BatchIO: info.BatchIO(), Recovery: info.Recoverable(),
	}, nil
}

// sweep deletes devices of this set that nobody waits for. The disk is open exclusively by now, so
// no other server is making one of them.
func (s *server) sweep(ctx context.Context) error {
	for _, id := range s.stale {
		s.log.Info().Int("id", id).Msg("removing what an earlier start left behind")
		if err := s.ctl.Delete(ctx, id); err != nil && !errors.Is(err, ublk.ErrNotFound) {
			return err
		}
	}
	return nil
}
