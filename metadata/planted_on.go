//go:build planted

package metadata

// plantedSequenceReused gives the number of a record of unknown outcome to the next one.
var plantedSequenceReused bool

// PlantSequenceReused plants or removes a bug for the tests of test/sim: the number of a
// record of unknown outcome is used again. There is no such function without the
// build tag planted.
func PlantSequenceReused(on bool) { plantedSequenceReused = on }

// plantedPathIsMedium takes every error of a read for one of the medium.
var plantedPathIsMedium bool

// PlantPathIsMedium plants or removes a bug: what a load could not read is taken for a bad
// place, whatever the reason.
func PlantPathIsMedium(on bool) { plantedPathIsMedium = on }

// plantedGrowsTogether gives all mirrors larger slots at the same time.
var plantedGrowsTogether bool

// PlantGrowsTogether plants or removes a bug: a mirror leaves its place for a larger one before the
// last one that did so is brought back.
func PlantGrowsTogether(on bool) { plantedGrowsTogether = on }

// plantedEventsInPlace writes a page of events over its newest copy.
var plantedEventsInPlace bool

// PlantEventsInPlace plants or removes a bug: a page of the flight recorder that is being filled is
// written in place, so that a torn write loses what was durable.
func PlantEventsInPlace(on bool) { plantedEventsInPlace = on }

// plantedVerifyBlind lets Verify find nothing.
var plantedVerifyBlind bool

// PlantVerifyBlind plants or removes a bug: what reads badly of the metadata is not noticed.
func PlantVerifyBlind(on bool) { plantedVerifyBlind = on }
