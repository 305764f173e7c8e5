//go:build !planted

package remap

// plantedNoTurns is false: only a build with the tag planted can plant a bug here, to
// show that test/sim finds it.
const plantedNoTurns = false
