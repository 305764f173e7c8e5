//go:build planted

package coordinator

// plantedSlowOnce lets a scrub call blocks slow after the first look.
var plantedSlowOnce bool

// PlantSlowOnce plants or removes a bug for the tests of test/sim. There is no such function
// without the build tag planted.
func PlantSlowOnce(on bool) { plantedSlowOnce = on }

// plantedDrillKeeps lets a drill keep its spare units when it has ended.
var plantedDrillKeeps bool

// PlantDrillKeeps plants or removes that bug.
func PlantDrillKeeps(on bool) { plantedDrillKeeps = on }
