//go:build race

package metadata

// raceDetector: everything here is one goroutine, so a few runs will do.
const raceDetector = true
