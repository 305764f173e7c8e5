package server

import (
	"context"
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
	// Known is what the backing was found to be, so that it need not be probed before it is open;
	// nil: it was not probed. Another set on the backing is refused then.
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

	// Predecessor is the process of a living server of the same disk; 0: there is none. It is asked
	// to leave its device to this server. If Kill is set, it is ended by SIGKILL instead: that is
	// for an older version that cannot leave.
	Predecessor int
	Kill        bool
	// Token names the upgrade in which the predecessor is asked to leave. If this server dies, the
	// process that started it can have that request refused by the token.
	Token string

	Version string // of the program, for the record
	// Options are the settings of this server that are not defaults, for the record. Those in
	// KeptOptions belong to the device: one that is recovered keeps what its record says of them.
	Options     map[string]string
	KeptOptions []string
	// RootStorage is for the record: the next server is to be one for the root file system, too.
	RootStorage bool
	Log         zerolog.Logger
	// Owned is called when the set's name belongs to this server, or to the server that this one
	// replaces. It returns the logger to use from then on. nil: Log.
	Owned func(name string) (zerolog.Logger, error)
	// Disks is called with the paths of the backing and the spare devices, when they are open. It
	// is not called for a device that waits for a server: the program that it starts may lie on
	// that device. What it returns is logged. nil: nothing is called.
	Disks func(ctx context.Context, name string, paths []string) []string
	// WriteLimit is that of ublk.RunOptions.
	WriteLimit func(path, text string) error
	// Opened is called when everything that is served is open, before the device can be live. After
	// that the server opens no other files than those of the kernel and of the runtime directory.
	Opened func()
	// Leaving is called right before the predecessor is asked to leave. From then on requests may
	// wait.
	Leaving func()
	// Signals ask a live server to end, as the verb stop does: it continues to serve while the
	// device is in use. Without Signals, the end of Run's context ends it, also if the device is in
	// use.
	Signals <-chan os.Signal
	// Progress is told, from time to time, what a start waits for.
	Progress func(what string)
	// Alive is called every few seconds while the device is live and the server's own threads
	// answer. A disk that does not answer is no reason not to call it.
	Alive func()
	// Stopping is called when an orderly stop has begun.
	Stopping func()
	// Ready is called once, with the device's path, when it is live.
	Ready func(path string)
}

// maxDefaultQueues bounds the number of queues if the user did not choose it. More queues do not
// make a failing disk any faster.
const maxDefaultQueues = 4

var (
	// ErrRecovery is returned when the device of a dead server cannot be taken
	// over as asked: it has other features, another number or another size.
	ErrRecovery = errors.New("cannot recover the device of the dead server")
	// ErrLeave is returned when a living server does not leave its device.
	ErrLeave = errors.New("the server does not leave its device")
	// ErrTaken is returned when somebody else took the device from its server. The requests that
	// wait there wait for the next start.
	ErrTaken = errors.New("the device was taken from its server")
	// ErrFlushUntold is returned by an orderly stop when a flush had failed, and no later flush of
	// the user came that could have been answered with that error.
	ErrFlushUntold = errors.New("a flush of it failed, and no later one of a user could be told: " +
		"what was written since the last flush that went well may be lost; check what was " +
		"written last, and the disk's health")
	// ErrEpoch is returned when the new epoch of the start could not be made durable.
	ErrEpoch = errors.New("the metadata does not take the start")
)
