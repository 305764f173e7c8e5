package server

import (
	"errors"
	"os"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/internal/host/set"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// Config says what to serve and how.
type Config struct {
	Backing string // path
	// Known is what somebody has found the backing to be, so that it need not be looked at
	// before it is open; nil: nobody has. Another set on it is refused then.
	Known  *set.Identity
	Spares []string // paths of spare devices; those not named are looked for

	ID       int // of the ublk device, or ublk.AnyID
	Queues   int // 0: one for each CPU, at most maxDefaultQueues
	Depth    int // 0: ublk.DefaultDepth
	MaxIO    int // bytes; 0: ublk.DefaultMaxIO
	ZeroCopy ublk.Choice
	BatchIO  ublk.Choice
	// See ublk.RunOptions.
	Poll      time.Duration
	HugePages bool
	Policy    remap.Policy

	// Predecessor is the process of a living server of the same disk, which is
	// asked to leave its device to this one; 0: there is none. Kill ends it by
	// SIGKILL instead: an older version that cannot leave.
	Predecessor int
	Kill        bool
	// Claim is in whose name it is asked, so that whoever started this server can
	// have that refused when this one is dead.
	Claim string

	Version string // of the program, for the record
	Log     zerolog.Logger
	// Owned is called when the set's name is this server's own, or that of the server whose
	// place it takes, and returns what is logged to from then on. nil: Log.
	Owned func(name string) (zerolog.Logger, error)
	// Opened is called when all is open that is served, before the device can be live:
	// other files than those of the kernel and of the runtime directory are not
	// looked for any more.
	Opened func()
	// Leaving is called right before the predecessor is asked to leave: from
	// then on requests may wait.
	Leaving func()
	// Signals ask a server that is live to end, as the verb stop does: it serves on while
	// the device is in use. Without them the end of Run's context does, whoever uses it.
	Signals <-chan os.Signal
	// Progress is told, now and then, what a start waits for.
	Progress func(what string)
	// Stopping is called when an orderly stop has begun.
	Stopping func()
	// Ready is called once, with the device's path, when it is live.
	Ready func(path string)
}

// maxDefaultQueues bounds the number of queues that nobody asked for: more do
// not make a disk that fails any faster.
const maxDefaultQueues = 4

var (
	// ErrRecovery is returned when the device of a dead server cannot be taken
	// over as asked: it has other features, another number or another size.
	ErrRecovery = errors.New("cannot take over the device of the dead server")
	// ErrLeave is returned when a living server does not leave its device.
	ErrLeave = errors.New("the server does not leave its device")
	// ErrTaken is returned when the device was taken from its server by
	// somebody else: what waits there waits for the next start.
	ErrTaken = errors.New("the device was taken from its server")
	// ErrFlushUntold is returned by an orderly stop when a flush had failed and no flush of
	// the user came after it that could have been answered with that.
	ErrFlushUntold = errors.New("a flush of it failed, and no later one of a user could be told: " +
		"what was written since the last flush that went well may be lost; check what was " +
		"written last, and the disk's health")
	// ErrEpoch is returned when the start could not be made durable.
	ErrEpoch = errors.New("the metadata does not take the start")
)
