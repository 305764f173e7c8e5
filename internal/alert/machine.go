package alert

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// Round is what there is at a time.
type Round struct {
	Time    time.Time
	Devices []Device
	// Err is why not all devices could be listed.
	Err error
}

// What a notice says of its alert.
const (
	Raised = "raised" // it is there
	Worse  = "worse"  // it got worse
	Again  = "again"  // it is still there, and nobody has acknowledged it
	Over   = "over"   // it is there no more
	Past   = "past"   // it was there while no monitor looked, and is over
)

// Notice is what became of an alert.
type Notice struct {
	Kind  string `json:"alert"` // its name
	Event string `json:"event"` // what became of it
	// Time is when it was seen, of a Past one when it happened.
	Time  time.Time `json:"time"`
	Since time.Time `json:"since"`

	Set     string   `json:"set"`  // of a notice about the host itself: the host
	Word    string   `json:"word"` // the name of the set as a word of a shell
	UUID    string   `json:"uuid"`
	Device  string   `json:"device"`
	Backing string   `json:"backing"`
	Disks   []string `json:"disks"`

	Text   string `json:"text"`   // a sentence
	Level  uint64 `json:"level"`  // how bad it is, in what the sentence counts
	Reason string `json:"reason"` // what the server said
	Action string `json:"action"` // what it said is to be done
	// Critical is how many critical alerts of this device are there.
	Critical int `json:"critical"`
	// Times is how often it was told, of notices that were put together.
	Times int `json:"times,omitempty"`
}

// kind returns the notice's kind.
func (n *Notice) kind() *Kind { return KindOf(n.Kind) }

// Severity of the notice's kind.
func (n *Notice) Severity() Severity { return n.kind().Severity }

const (
	// settleTime is how long an alert must not be there before that is told. It doubles each time
	// that an alert comes back within returnTime.
	settleTime = time.Minute
	returnTime = time.Hour
	maxReturns = 5
	// forgetTime is how long a device that is not here is remembered.
	forgetTime = 30 * 24 * time.Hour
)

// Options of a Machine.
type Options struct {
	Host   string        // its name
	Digest time.Duration // between two digests
	Repeat time.Duration // what nobody has acknowledged is told again; 0: never
}

// Machine decides what is told. It does no I/O and reads no clock.
type Machine struct {
	State   *State
	options Options
}

// NewMachine returns a Machine that goes on from a state, which it owns from then on.
func NewMachine(s *State, o Options) *Machine { return &Machine{State: s, options: o} }

// keyOf is what a device is remembered by.
func keyOf(d *Device) string { return cmp.Or(d.Status.UUID, d.Status.Name, d.Status.Device) }

// LastEvent returns the event of a device's flight recorder that was seen last. known is false for
// a device that was never seen: what it has recorded is the past.
func (m *Machine) LastEvent(uuid string) (last EventPlace, known bool) {
	if s := m.State.Sets[uuid]; s != nil && s.LastEvent != nil {
		return *s.LastEvent, true
	}
	return EventPlace{}, false
}

// Step takes what there is now. The notices are for what takes each of them; the messages are for
// people.
func (m *Machine) Step(r *Round) ([]*Notice, []*Message) {
	var all []*Notice
	here := map[string]bool{}
	for i := range r.Devices {
		d := &r.Devices[i]
		key := keyOf(d)
		if key == "" || here[key] {
			continue
		}
		here[key] = true
		all = append(all, m.device(d, m.memory(key, d, r.Time), r.Time)...)
	}
	for _, key := range slices.Sorted(maps.Keys(m.State.Sets)) {
		switch s := m.State.Sets[key]; {
		case here[key] || r.Err != nil:
		case r.Time.Sub(s.Seen) > forgetTime:
			delete(m.State.Sets, key)
		default:
			all = append(all, m.away(s, r.Time)...)
		}
	}
	all = append(all, m.host(r)...)
	slices.SortStableFunc(all, func(a, b *Notice) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Set, b.Set))
	})
	return all, m.State.Outbox.take(all, r.Time, m.options)
}

// rank orders notices: the most urgent first, what is over last.
func rank(n *Notice) int {
	switch {
	case n.Event == Over || n.Event == Past:
		return 3
	case n.Event == Again:
		return 2
	case n.Severity() == Critical:
		return 0
	}
	return 1
}

// memory returns what is remembered of a device, brought up to date.
func (m *Machine) memory(key string, d *Device, now time.Time) *setMemory {
	s := m.State.Sets[key]
	if s == nil {
		s = &setMemory{Alerts: map[string]*Alert{}}
		m.State.Sets[key] = s
	}
	st := d.Status
	s.Name, s.UUID, s.Device, s.Backing = st.Name, st.UUID, st.Device, st.Backing
	s.Name = cmp.Or(s.Name, s.Device)
	s.Seen = now.Truncate(time.Hour)
	if len(st.ErrorRecovery) > 0 {
		s.Disks = nil
		for _, disk := range st.ErrorRecovery {
			s.Disks = append(s.Disks, disk.Disk)
		}
	}
	if d.Answered && !s.Figures {
		// What was counted before the device was seen for the first time is no rise.
		s.Figures = true
		s.Flushes.Last, s.Transport.Last = st.Errors.Flush, st.Errors.Transport
		s.Remaps.Last = st.Remaps
	}
	return s
}

// device judges a device by each kind.
func (m *Machine) device(d *Device, s *setMemory, now time.Time) (all []*Notice) {
	for _, k := range Kinds {
		if k.judge == nil || !d.Answered && !k.blind {
			continue // not known: it stays as it was
		}
		f := k.judge(d, s, now)
		f.reason, f.action = cmp.Or(f.reason, d.Status.Reason), d.Status.Action
		if n := s.judged(k, f, now, m.options.Repeat, k.Over); n != nil {
			all = append(all, n)
		}
	}
	return append(all, s.recorded(d, now)...)
}

// away is for a device that is not here: it was stopped.
func (m *Machine) away(s *setMemory, now time.Time) (all []*Notice) {
	for _, k := range Kinds {
		if k.Durable {
			continue // it is on the disk, and so it will be there when the device is
		}
		over := "{set} was stopped, so this is over."
		if n := s.judged(k, finding{}, now, 0, over); n != nil {
			all = append(all, n)
		}
	}
	return all
}

// host judges whether the devices can be listed.
func (m *Machine) host(r *Round) []*Notice {
	h := &m.State.Host
	if h.Alerts == nil {
		h.Alerts = map[string]*Alert{}
	}
	h.Name = m.options.Host
	k := KindOf(MonitorFails)
	f := finding{}
	if r.Err != nil {
		f = finding{present: true, reason: r.Err.Error()}
	}
	if n := h.judged(k, f, r.Time, m.options.Repeat, k.Over); n != nil {
		return []*Notice{n}
	}
	return nil
}

// judged takes a finding, and returns what there is to tell of it, or nil.
func (s *setMemory) judged(k *Kind, f finding, now time.Time, repeat time.Duration,
	over string) *Notice {
	a := s.Alerts[k.Name]
	if !f.present {
		return s.absent(k, a, f, now, over)
	}
	switch {
	case a == nil:
		a = &Alert{Since: now}
		s.Alerts[k.Name] = a
	case !a.Closed.IsZero(): // it comes back
		*a = Alert{Since: now, Returns: min(a.Returns+1, maxReturns)}
	case !a.Gone.IsZero():
		a.Gone = time.Time{}
		a.Returns = min(a.Returns+1, maxReturns)
	}
	a.Value, a.Reason, a.Action = f.value, f.reason, f.action
	event := ""
	switch {
	case a.Told.IsZero() && now.Sub(a.Since) >= k.For:
		event, a.Told = Raised, now
	case a.Told.IsZero():
		return nil
	case f.level > a.Level:
		event, a.Acknowledged = Worse, time.Time{}
	case repeat > 0 && k.Over != "" && a.Acknowledged.IsZero() && now.Sub(a.Again) >= repeat:
		event = Again
	}
	a.Level = f.level
	if event == "" {
		return nil
	}
	a.Again = now
	return s.notice(k, a, event, say(k.Summary, s.Name, f.value), now)
}

// absent is judged for an alert that is not there.
func (s *setMemory) absent(k *Kind, a *Alert, f finding, now time.Time, over string) *Notice {
	switch {
	case a == nil:
		return nil
	case a.Told.IsZero(), !a.Closed.IsZero() && now.Sub(a.Closed) > returnTime:
		delete(s.Alerts, k.Name)
		return nil
	case !a.Closed.IsZero():
		return nil
	case a.Gone.IsZero():
		a.Gone = now
	}
	if now.Sub(a.Gone) < settleTime<<a.Returns {
		return nil
	}
	a.Closed, a.Reason, a.Action = now, f.reason, f.action
	if k.Over == "" {
		return nil
	}
	return s.notice(k, a, Over, say(over, s.Name, a.Value), now)
}

// notice makes a notice about an alert of this device.
func (s *setMemory) notice(k *Kind, a *Alert, event, text string, now time.Time) *Notice {
	disks := make([]string, len(s.Disks))
	for i, d := range s.Disks {
		disks[i] = readable.Text(d)
	}
	return &Notice{Kind: k.Name, Event: event, Time: now, Since: a.Since,
		Set: readable.Text(s.Name), Word: shell.Quote(s.Name), UUID: readable.Text(s.UUID),
		Device: readable.Text(s.Device), Backing: readable.Text(s.Backing), Disks: disks,
		Text: readable.Text(text), Reason: readable.Text(a.Reason),
		Action: readable.Text(a.Action), Level: a.Level, Critical: s.critical(), Times: 1}
}

// critical counts the critical alerts that are there.
func (s *setMemory) critical() (n int) {
	for name, a := range s.Alerts {
		if k := KindOf(name); k != nil && k.Severity == Critical && a.open() {
			n++
		}
	}
	return n
}

// recorded looks at the events of the flight recorder, for what has come and gone between two
// rounds, or while no monitor looked.
func (s *setMemory) recorded(d *Device, now time.Time) (all []*Notice) {
	if !d.Told {
		return nil
	}
	first, last := s.LastEvent == nil, d.Last
	s.LastEvent = &last
	if first {
		return nil // what was before it was seen for the first time is the past
	}
	var hangs *Event
	for i := range d.Events {
		e := &d.Events[i]
		name := ""
		switch e.What {
		case "tripped":
			name = "tripped"
		case "flush-failed":
			name = "flush-failed"
		case "hang":
			if hangs == nil {
				hangs = e
				continue
			}
			if e.Time.Sub(hangs.Time) > waitsTime {
				name = "disk-waits"
			}
			e, hangs = hangs, nil
		}
		if n := s.past(name, e, now); n != nil {
			all = append(all, n)
		}
	}
	return all
}

// past makes a notice of an event, unless there is an alert that was told about it.
func (s *setMemory) past(name string, e *Event, now time.Time) *Notice {
	k := KindOf(name)
	if k == nil {
		return nil
	}
	if a := s.Alerts[name]; a != nil && (a.Closed.IsZero() || !a.Closed.Before(e.Time)) {
		return nil
	}
	a := &Alert{Since: e.Time, Told: now, Again: now, Gone: now, Closed: now}
	s.Alerts[name] = a
	n := s.notice(k, a, Past, fmt.Sprintf("%s had an incident that is over: %s.", s.Name, e.Text),
		e.Time)
	return n
}

// ErrNoAlert is returned if there is no such alert.
var ErrNoAlert = errors.New("there is no such alert")

// Acknowledge makes the alerts of a device quiet until they get worse: those of these kinds, or all
// if none is named. set is its name, UUID or device; empty means all devices. It returns how many
// alerts there are of those.
func (m *Machine) Acknowledge(set string, kinds []string, now time.Time) (int, error) {
	n := 0
	for _, s := range m.memories() {
		names := []string{s.Name, readable.Text(s.Name), s.UUID, s.Device}
		if set != "" && !slices.Contains(names, set) {
			continue
		}
		for name, a := range s.Alerts {
			if a.open() && (len(kinds) == 0 || slices.Contains(kinds, name)) {
				a.Acknowledged = now
				n++
			}
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("%s: %w", cmp.Or(strings.Join(append([]string{set}, kinds...), " "),
			"all devices"), ErrNoAlert)
	}
	return n, nil
}

// memories are those of all devices and of the host.
func (m *Machine) memories() []*setMemory {
	all := slices.SortedFunc(maps.Values(m.State.Sets), func(a, b *setMemory) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.UUID, b.UUID))
	})
	return append(all, &m.State.Host)
}

// Listed is an alert that is there.
type Listed struct {
	Set    string `json:"set"`
	UUID   string `json:"uuid"`
	Device string `json:"device"`
	control.Alert
	Told    time.Time `json:"told"`
	Reason  string    `json:"reason"`
	Action  string    `json:"action"`
	Runbook string    `json:"runbook"`
}

// List returns the alerts that are there and were told, the most urgent first.
func (m *Machine) List() []Listed {
	all := []Listed{}
	for _, s := range m.memories() {
		all = append(all, s.listed()...)
	}
	slices.SortStableFunc(all, func(a, b Listed) int {
		return strings.Compare(a.Severity, b.Severity) // critical, warning
	})
	return all
}

// listed returns those of a device. The critical ones come first, as in Kinds.
func (s *setMemory) listed() (all []Listed) {
	for _, k := range Kinds {
		a := s.Alerts[k.Name]
		if a == nil || !a.open() {
			continue
		}
		row := Listed{Set: readable.Text(s.Name), UUID: readable.Text(s.UUID),
			Device: readable.Text(s.Device), Alert: control.Alert{Kind: k.Name,
				Severity: string(k.Severity), Since: a.Since,
				Text: readable.Text(say(k.Summary, s.Name, a.Value))},
			Told: a.Told, Reason: readable.Text(a.Reason),
			Action: readable.Text(a.Action), Runbook: k.Runbook()}
		if at := a.Acknowledged; !at.IsZero() {
			row.Acknowledged = &at
		}
		all = append(all, row)
	}
	return all
}
