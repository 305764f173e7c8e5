package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/drive"
	"ublkremap/internal/host"
)

// drivesWait bounds how long a start, a stop or a resume works on the limits of drives. A drive
// that does not answer must not delay them.
const drivesWait = 20 * time.Second

// recoveryWanted says which values --error-recovery can have.
var recoveryWanted = fmt.Sprintf("a time from %s to %s, or keep", drive.Least, drive.Most)

// recoveryLimit returns what a server calls when its disks are open, for a value of
// --error-recovery.
func recoveryLimit(value string) (func(context.Context, string, []string) []string, error) {
	if value == "keep" {
		return func(ctx context.Context, name string, _ []string) []string {
			// An earlier server of the set can have set it, and died.
			if err := releaseDrives(ctx, name); err != nil {
				return []string{err.Error()}
			}
			return nil
		}, nil
	}
	limit, err := time.ParseDuration(value)
	if err != nil || limit < drive.Least || limit > drive.Most {
		return nil, fmt.Errorf("%s: %w: want %s", value, exit.ErrUsage, recoveryWanted)
	}
	return func(ctx context.Context, name string, disks []string) []string {
		ctx, cancel := context.WithTimeout(ctx, drivesWait)
		defer cancel()
		var lines []string
		for _, d := range host.Drives().Set(ctx, name, disks, limit) {
			lines = append(lines, "error recovery: "+drive.Says(d))
		}
		return lines
	}, nil
}

// releaseDrives restores the settings that the disks had before the set was served.
func releaseDrives(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, drivesWait)
	defer cancel()
	return host.Drives().Release(ctx, name)
}

// releaseUnusedDrives restores the settings of all disks that no set uses any more.
func releaseUnusedDrives(ctx context.Context) error {
	return releaseDrives(context.WithoutCancel(ctx), "")
}

// drivesOfEnded restores the settings of the disks of a server that has ended, because a signal
// has stopped it, or because its start has failed. The server's mount namespace has no smartctl any
// more. So it restores the kernel's time limits only. systemd's unit does the rest for its own
// server (unit-ended), and the next stop of a set does so for others.
func drivesOfEnded(ctx context.Context, log zerolog.Logger) {
	if underManager() {
		return
	}
	if err := releaseUnusedDrives(ctx); err != nil {
		log.Warn().Str("do", "stop another set, or: ublk-remap doctor --fix").Msg(err.Error())
	}
}

// limitDrivesAgain sets the limits of a set's drives once more, because a drive forgets them when
// it loses power.
func (a *app) limitDrivesAgain(ctx context.Context, r *control.Record) {
	ctx, cancel := context.WithTimeout(ctx, drivesWait)
	defer cancel()
	for _, d := range host.Drives().Again(ctx, r.Name, host.DisksOf(r)) {
		if d.LimitS == nil && d.KernelBeforeS == nil {
			a.log.Warn().Msg("error recovery: " + drive.Says(d))
		}
	}
}
