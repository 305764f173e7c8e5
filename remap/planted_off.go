//go:build !planted

package remap

// Only a build with the tag planted can plant bugs here, to show that test/sim finds them.
const (
	plantedNoTurns       = false
	plantedHomeForgotten = false
	plantedOnePass       = false
	plantedHomeUnread    = false
	plantedStaleSpare    = false
	plantedNotBusy       = false
	plantedSlowUnread    = false
	plantedFillAll       = false
	plantedFillUnread    = false
	plantedMarkEarly     = false
	plantedMarkLost      = false
	plantedTestedOnce    = false
	plantedMarkLate      = false
	plantedReadOnce      = false
	plantedSpareStays    = false
	plantedOthersStay    = false
)
