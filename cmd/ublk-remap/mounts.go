package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"ublkremap/cmd/ublk-remap/internal/mounts"
	"ublkremap/internal/control"
)

const programName = "ublk-remap"

// notOwnMounts says why this process shares the mount namespace of its caller. It is set once,
// before anything else happens.
var notOwnMounts error

// ownMounts gives a process that will be a server a mount namespace of its own. It starts the
// program again, if it can.
func ownMounts(args []string) {
	if given(args, "detached") || given(args, "foreground") {
		notOwnMounts = mounts.Own(programName, given(args, "root-storage"))
	}
}

// given reports whether a command line has a flag. It is asked before the flags are parsed.
func given(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--"+flag || strings.HasPrefix(a, "--"+flag+"=") && a != "--"+flag+"=false"
	})
}

// leaveMounts removes from the server's mount namespace everything that the server does not need.
func leaveMounts(log zerolog.Logger) {
	const do = "a file system on the device must not be in this mount namespace when the server " +
		"is killed together with all others in it"
	if notOwnMounts != nil {
		log.Warn().Err(notOwnMounts).Str("do", do).
			Msg("the server has no mount namespace of its own")
		return
	}
	var also []string
	// The name of an abstract socket begins with another character.
	if notify := os.Getenv("NOTIFY_SOCKET"); filepath.IsAbs(notify) {
		also = append(also, filepath.Dir(notify))
	}
	if err := mounts.Leave(control.Dir(), also...); err != nil {
		log.Warn().Err(err).Str("do", do).Msg("not everything could be taken out of the server's " +
			"mount namespace")
	}
}
