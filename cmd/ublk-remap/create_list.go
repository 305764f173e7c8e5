package main

import (
	"fmt"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/metadata"
)

// knownBad reads the list of --badblocks and works out what it means for the set
// that is planned. All that a list can be refused for it is refused for here,
// before anything on the disk is changed.
func (a *app) knownBad(plan *metadata.Layout, o createOptions) (badblocks.Entries, error) {
	if o.badblocks == "" {
		return badblocks.Entries{}, nil
	}
	list, err := badblocks.Read(o.badblocks, o.badblocksSize)
	if err != nil {
		return badblocks.Entries{}, err
	}
	bad, err := badblocks.Place(list, plan, metadata.Seconds(time.Now()))
	if err != nil {
		return bad, fmt.Errorf("%s: %w", o.badblocks, err)
	}
	if err := fitsSpares(bad, plan); err != nil {
		return bad, fmt.Errorf("%s: %w", o.badblocks, err)
	}
	if err := metadata.CheckInitial(plan, bad.Entries); err != nil {
		return bad, fmt.Errorf("%s: %w: the metadata cannot hold the list: %w", o.badblocks, exit.ErrUsage, err)
	}
	if bad.Metadata > 0 {
		a.log.Warn().Uint64("bytes", bad.Metadata).Msg("some of the bad blocks lie where the metadata goes; its mirrors have to cope")
	}
	return bad, nil
}

// fitsSpares refuses a set that knows more bad units than it has good spare units
// for: writes to some of them would fail from the first day on.
func fitsSpares(bad badblocks.Entries, plan *metadata.Layout) error {
	good := plan.SpareUnits() - bad.Spares
	if bad.Units <= good {
		return nil
	}
	const step = 1 << 20
	want := ((bad.Units+bad.Spares)*metadata.UnitSize*5/4 + step) / step
	return fmt.Errorf("%w: %s units of %d bytes are known to be bad, and of %s spare units %s are good; ask for more with --spare %dMiB, or use another disk",
		exit.ErrUsage, numText(bad.Units), metadata.UnitSize, numText(plan.SpareUnits()), numText(good), want)
}
