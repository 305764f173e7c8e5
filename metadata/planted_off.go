//go:build !planted

package metadata

// These are false: only a build with the tag planted can plant a bug here, to show that
// test/sim finds it.
const (
	plantedSequenceReused = false
	plantedPathIsMedium   = false
	plantedGrowsTogether  = false
	plantedEventsInPlace  = false
	plantedVerifyBlind    = false
)
