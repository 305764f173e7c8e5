package main

import (
	"fmt"
	"io"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/internal/lists"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// knownBad reads the list of --badblocks.
func (a *app) knownBad(disk int64, o createOptions) (*lists.List, error) {
	if o.badblocks == "" {
		return nil, nil
	}
	var list *lists.List
	err := a.readInput(o.badblocks, func(in io.Reader, name string) (err error) {
		list, err = badblocks.Read(in, name, o.badblocksSize, disk)
		return err
	})
	return list, err
}

// warnOfBlockSize warns of a list that may have been read with the wrong block size.
func (a *app) warnOfBlockSize(list *lists.List, disk int64, o createOptions) {
	switch {
	case list == nil:
	case list.Pairs && o.badblocksSize != 512:
		a.log.Warn().Int("badblocks-size", o.badblocksSize).Msg("the list has lines of two " +
			"numbers: those of MD and null_blk count sectors of 512 bytes")
	case list.End > 0 && list.End <= disk/4:
		a.log.Warn().Int("badblocks-size", o.badblocksSize).
			Msgf("the list ends at %s of %s: if its blocks are larger than %d bytes, say so with "+
				"--badblocks-size", readable.Bytes(list.End), readable.Bytes(disk), o.badblocksSize)
	}
}

// warnOfFewSpares warns of a set that has more known bad units than good spare units. The set can
// be used anyway if nothing is written to the bad part. A dead zone can be far larger than
// any spare region.
func (a *app) warnOfFewSpares(bad badblocks.Entries, plan *metadata.Layout) {
	good := plan.SpareUnits() - bad.Spares
	if bad.Units <= good {
		return
	}
	const step = 1 << 20
	want := ((bad.Units+bad.Spares)*metadata.UnitSize*5/4 + step) / step
	a.log.Warn().Str("do", fmt.Sprintf("for all of them --spare %dMiB, or leave that part of the "+
		"disk unused", want)).
		Msgf("%s units of %d bytes are known to be bad, and of %s spare units %s are good: "+
			"writes to the others will fail",
			readable.Number(bad.Units), metadata.UnitSize, readable.Number(plan.SpareUnits()),
			readable.Number(good))
}
