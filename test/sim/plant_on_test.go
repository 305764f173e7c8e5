//go:build planted

package sim

import (
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// plant plants, or removes, the bugs that can only be inside of the code under test.
func plant(b Bug, on bool) bool {
	switch b {
	case BugNoTurns:
		remap.PlantNoTurns(on)
	case BugReaderStaleSpare:
		remap.PlantStaleSpare(on)
	case BugDrillKeeps:
		coordinator.PlantDrillKeeps(on)
	case BugSlowOnce:
		coordinator.PlantSlowOnce(on)
	case BugVerifyBlind:
		metadata.PlantVerifyBlind(on)
	case BugSpareStays:
		remap.PlantSpareStays(on)
	case BugOthersStay:
		remap.PlantOthersStay(on)
	case BugFillAll:
		remap.PlantFillAll(on)
	case BugFillUnread:
		remap.PlantFillUnread(on)
	case BugPlaceOnce:
		remap.PlantReadOnce(on)
	case BugRetestUnwritten:
		remap.PlantTestedOnce(on)
	case BugRetestUntold:
		remap.PlantHomeForgotten(on)
	case BugRewriteUnread:
		remap.PlantHomeUnread(on)
	case BugRewriteNotBusy:
		remap.PlantNotBusy(on)
	case BugSlowUnread:
		remap.PlantSlowUnread(on)
	case BugScrubOnePass:
		remap.PlantOnePass(on)
	case BugMarkEarly:
		remap.PlantMarkEarly(on)
	case BugMarkLost:
		remap.PlantMarkLost(on)
	case BugMarkSpared:
		remap.PlantMarkLate(on)
	case BugSequenceReused:
		metadata.PlantSequenceReused(on)
	case BugPathIsMedium:
		metadata.PlantPathIsMedium(on)
	case BugGrowsTogether:
		metadata.PlantGrowsTogether(on)
	case BugEventsInPlace:
		metadata.PlantEventsInPlace(on)
	default:
		return false
	}
	return true
}
