//go:build planted

package remap

// plantedNoTurns lets heals of one block run at the same time.
var plantedNoTurns bool

// PlantNoTurns plants or removes a bug for the tests of test/sim: heals of one block
// do not take turns. There is no such function without the build tag planted.
func PlantNoTurns(on bool) { plantedNoTurns = on }

// plantedStaleSpare lets an internal request take what it has read from a spare unit that may
// have been given to other blocks meanwhile.
var plantedStaleSpare bool

// plantedTestedOnce lets a retest take a block home that was not written in its first test.
var plantedTestedOnce bool

// plantedHomeUnread lets a move home, such as the rewrite of a weak block, count without a read.
var plantedHomeUnread bool

// PlantHomeUnread plants or removes that bug.
func PlantHomeUnread(on bool) { plantedHomeUnread = on }

// plantedNotBusy lets users write to what the scrub moves. plantedSlowUnread lets its moves to spare
// units, such as those of slow blocks, count without a read.
var plantedNotBusy, plantedSlowUnread bool

// PlantNotBusy plants or removes the first of these bugs.
func PlantNotBusy(on bool) { plantedNotBusy = on }

// PlantSlowUnread plants or removes the second one.
func PlantSlowUnread(on bool) { plantedSlowUnread = on }

// plantedOnePass lets the retest of the scrub take a block home that passed after one pass only.
var plantedOnePass bool

// PlantOnePass plants or removes that bug.
func PlantOnePass(on bool) { plantedOnePass = on }

// plantedHomeForgotten lets a retest not know that another operation has seen a home fail.
var plantedHomeForgotten bool

// PlantHomeForgotten plants or removes that bug.
func PlantHomeForgotten(on bool) { plantedHomeForgotten = on }

// plantedReadOnce lets a write in place be acknowledged after a single read.
var plantedReadOnce bool

// plantedSpareStays lets a spare unit that went bad in use be given out again once it is free.
var plantedSpareStays bool

// PlantSpareStays plants or removes that bug.
func PlantSpareStays(on bool) { plantedSpareStays = on }

// plantedOthersStay lets blocks stay in a spare unit in which a user's read has found bad ones.
var plantedOthersStay bool

// PlantOthersStay plants or removes that bug.
func PlantOthersStay(on bool) { plantedOthersStay = on }

// PlantReadOnce plants or removes that bug.
func PlantReadOnce(on bool) { plantedReadOnce = on }

// PlantTestedOnce plants or removes that bug.
func PlantTestedOnce(on bool) { plantedTestedOnce = on }

// PlantStaleSpare plants or removes that bug.
func PlantStaleSpare(on bool) { plantedStaleSpare = on }

// plantedFillAll lets a fill replace blocks that are neither pending nor lost. plantedFillUnread
// lets it replace pending blocks that read.
var plantedFillAll, plantedFillUnread bool

// PlantFillAll plants or removes the first of these bugs.
func PlantFillAll(on bool) { plantedFillAll = on }

// PlantFillUnread plants or removes the second one.
func PlantFillUnread(on bool) { plantedFillUnread = on }

// plantedMarkEarly lets a Marking end before its marks are durable. plantedMarkLost lets it take
// listed blocks for such that have no copy. plantedMarkLate lets it mark blocks that a heal is
// about to move to a spare unit.
var plantedMarkEarly, plantedMarkLost, plantedMarkLate bool

// PlantMarkEarly plants or removes the first of these bugs.
func PlantMarkEarly(on bool) { plantedMarkEarly = on }

// PlantMarkLost plants or removes the second one.
func PlantMarkLost(on bool) { plantedMarkLost = on }

// PlantMarkLate plants or removes the third one.
func PlantMarkLate(on bool) { plantedMarkLate = on }
