package alert

import "time"

// State is all that a [Machine] remembers. It can be kept as JSON.
type State struct {
	Version int `json:"version"`
	// Sets are the devices that were seen, by the UUID of their set, or its name if it has none.
	Sets map[string]*setMemory `json:"sets"`
	// Host is about the host itself.
	Host setMemory `json:"host"`

	Outbox outbox `json:"outbox"`
	// Unsent are messages that a way has not brought yet, by the name of the way.
	Unsent map[string][]*Message `json:"unsent,omitempty"`
}

// stateVersion is the form of State. A monitor starts anew with another one.
const stateVersion = 1

// NewState is the state of a monitor that has seen nothing.
func NewState() *State {
	return &State{Version: stateVersion, Sets: map[string]*setMemory{}}
}

// setMemory is what is remembered of a device.
type setMemory struct {
	Name    string   `json:"name"`
	UUID    string   `json:"uuid"`
	Device  string   `json:"device"`
	Backing string   `json:"backing"`
	Disks   []string `json:"disks,omitempty"` // that are below it, or were when they were seen last
	// Seen is when it was on this host, to the hour: so the state does not change at each round.
	Seen time.Time `json:"seen"`
	// LastEvent is the event of the flight recorder that was seen last; nil: that is not known.
	LastEvent *EventPlace `json:"last_event,omitempty"`

	Flushes   tally       `json:"flushes"`
	Transport tally       `json:"transport"`
	Remaps    tally       `json:"remaps"`
	Spare     []sample    `json:"spare,omitempty"`
	Started   time.Time   `json:"started"` // when its server was
	Replaced  []time.Time `json:"replaced,omitempty"`
	// Figures: a server has told its figures ever.
	Figures bool `json:"figures"`

	Alerts map[string]*Alert `json:"alerts"` // by the name of the kind

	counts []*counts
}

// Alert is an alert of a device that is there, or was a moment ago.
type Alert struct {
	Since time.Time `json:"since"` // since when it is there
	// Told is when it was told first; zero: it was not, it is there not long enough.
	Told  time.Time `json:"told"`
	Again time.Time `json:"again"` // when it was told last
	Level uint64    `json:"level"` // the worst that was told
	Value string    `json:"value"` // of its sentence, now
	// Acknowledged is when somebody said that it is known; zero: nobody has, or it got worse.
	Acknowledged time.Time `json:"acknowledged"`
	// Gone is since when it is not there; zero: it is there.
	Gone time.Time `json:"gone"`
	// Closed is when its end was told. It is remembered for a while, so that one that comes and
	// goes is told less and less often.
	Closed time.Time `json:"closed"`
	// Returns is how often it was gone and there again.
	Returns int `json:"returns"`

	// Reason and Action are what the device's status said when it was there last.
	Reason string `json:"reason"`
	Action string `json:"action"`
}

// open reports whether it was told and is not over.
func (a *Alert) open() bool { return !a.Told.IsZero() && a.Closed.IsZero() }
