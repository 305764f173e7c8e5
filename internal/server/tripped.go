package server

import (
	"ublkremap/internal/control"
	"ublkremap/internal/shell"
	"ublkremap/remap"
)

// tripAction is what to do about an open breaker. It does not mention cables where the medium
// fails.
func tripAction(kind remap.TripKind, name string) string {
	resume := shell.Command("resume", name)
	switch kind {
	case remap.TripMedia:
		return "copy the data to another disk while this one reads: its spare region fails as " +
			"well; to go on with what is left of it: " + resume
	case remap.TripBudget:
		return "see what the disk says of itself (smartctl -a) and copy the data to another one " +
			"if it is dying; to go on: " + resume
	case remap.TripMetadata:
		return "see the log of the kernel for the disk's errors, check its cables and power; " +
			"when it takes writes again: " + resume
	case remap.TripMissing:
		return "bring the disk back: cables, power, its controller; then: " + resume
	}
	return "check the disk's cables and power, then: " + resume
}

// tripKind is what a breaker opened for, as the status has it.
func tripKind(kind remap.TripKind) control.TripKind {
	switch kind {
	case remap.TripMissing:
		return control.TripMissing
	case remap.TripMedia:
		return control.TripMedia
	case remap.TripBudget:
		return control.TripBudget
	case remap.TripMetadata:
		return control.TripMetadata
	}
	return control.TripPath
}
