//go:build !planted

package coordinator

// Only a build with the tag planted can plant bugs here, to show that test/sim finds them.
const (
	plantedSlowOnce   = false
	plantedDrillKeeps = false
)
