//go:build planted

package remap

// plantedNoTurns lets heals of one block run at the same time.
var plantedNoTurns bool

// PlantNoTurns plants or removes a bug for the tests of test/sim: heals of one block
// do not take turns. There is no such function without the build tag planted.
func PlantNoTurns(on bool) { plantedNoTurns = on }
