package server

import (
	"context"
	"fmt"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/ublk"
)

// A set can exist more than once: a disk and its copy, its snapshot, or its mirror that was split
// off. A server that is given the wrong one would show old data as new, even to a mounted file
// system if a device waits for its server. This file refuses what the record of a dead server shows
// to be wrong, before anything is written. The verb start checks the other disks
// (set.CheckNewest).

// older refuses a disk that is an older copy of the one that a device waits for.
//
// A server writes its record when its epoch is durable. So the disk that the server had cannot be
// of an older epoch. The set is open, and nothing was written to it.
func (s *server) older(waiting *ublk.DeviceInfo) error {
	if waiting == nil {
		return nil
	}
	sb := s.set.Superblock
	if sb.Epoch >= s.record.Epoch {
		return nil
	}
	return fmt.Errorf("%s: %w: %s waits for the disk that was served last, %s at epoch %d, and "+
		"this one is of epoch %d, an older copy; start that one, or give the I/O up with: %s",
		s.cfg.Backing, ErrRecovery, waiting.BlockPath(), s.record.Backing, s.record.Epoch, sb.Epoch,
		shell.Command("stop", s.record.Name))
}

// sameDevices refuses to let a waiting device continue with other disks than those of its dead
// server, if those disks are still there. Epochs do not distinguish copies that were made since
// then. A disk that came back by another path is accepted. The set is open, and nothing was written
// to it.
func (s *server) sameDevices(ctx context.Context, waiting *ublk.DeviceInfo) error {
	if waiting == nil {
		return nil
	}
	for i, had := range append([]string{s.record.Backing}, s.record.Spares...) {
		if i == len(s.set.Devices) || blockdev.SameDisk(had, s.set.Devices[i].Path()) {
			continue
		}
		sb, err := set.Identify(ctx, had)
		if err != nil || sb.UUID != s.set.Superblock.UUID || int(sb.DeviceIndex) != i {
			continue // it is not there any more
		}
		role := sb.Devices[i].Role
		return fmt.Errorf("%s: %w: %s waits for its %s %s, which is there too: this is a copy of "+
			"it, or another way to it; start it with that, or detach that if it is the copy",
			s.set.Devices[i].Path(), ErrRecovery, waiting.BlockPath(), role, had)
	}
	return nil
}

// epochNow is the epoch that the keeper has made durable.
func (k *keeper) epochNow(ctx context.Context) (epoch uint64, err error) {
	err = k.call(ctx, func() { epoch = k.coord.Status().Committer.Epoch })
	return epoch, err
}
