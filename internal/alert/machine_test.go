package alert

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
)

// bench drives a Machine through time, as rounds ten seconds apart.
type bench struct {
	t        *testing.T
	m        *Machine
	now      time.Time
	devices  []Device
	err      error
	notices  []*Notice
	messages []*Message
}

const every = 10 * time.Second

func newBench(t *testing.T, n int) *bench {
	b := &bench{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		m: NewMachine(NewState(), Options{Host: "h", Digest: time.Hour, Repeat: 24 * time.Hour})}
	for i := range n {
		b.devices = append(b.devices, live(fmt.Sprintf("set%02d", i)))
	}
	b.run(every)
	b.want("", 0) // nothing is to be told of devices that are well
	return b
}

func live(name string) Device {
	return Device{Answered: true, Status: &control.Status{Name: name, UUID: "uuid-" + name,
		Device: "/dev/ublkb0", Backing: "/dev/sda", State: control.StateLive,
		Spare:   control.Spare{Total: 1000, Free: 1000},
		Breaker: control.Breaker{State: "closed"}, ServerPID: 1,
		Metadata: control.Metadata{Mirrors: []control.Mirror{{State: "good"}, {State: "good"}}}}}
}

// dead makes a device's server dead.
func (d *Device) dead() {
	d.Answered = false
	d.Status.State, d.Status.ServerPID = control.StateFailed, 0
	d.Status.Reason, d.Status.Action = "its server is dead", "ublk-remap start x"
}

func (d *Device) alive() {
	d.Answered = true
	d.Status.State, d.Status.ServerPID = control.StateLive, 2
	d.Status.Reason, d.Status.Action = "", ""
}

// run lets time pass. What is told is gathered until the next want.
func (b *bench) run(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); b.now = b.now.Add(every) {
		n, m := b.m.Step(&Round{Time: b.now, Devices: b.devices, Err: b.err})
		b.notices, b.messages = append(b.notices, n...), append(b.messages, m...)
	}
}

// restart goes on from the state as a file keeps it.
func (b *bench) restart() {
	b.t.Helper()
	text, err := json.Marshal(b.m.State)
	if err != nil {
		b.t.Fatal(err)
	}
	s := NewState()
	if err := json.Unmarshal(text, s); err != nil {
		b.t.Fatal(err)
	}
	if err := s.check(); err != nil {
		b.t.Fatal(err)
	}
	b.m = NewMachine(s, b.m.options)
}

// want compares the notices since the last want, as 'kind event …', and how many messages there
// were.
func (b *bench) want(notices string, messages int) {
	b.t.Helper()
	var got []string
	for _, n := range b.notices {
		got = append(got, n.Kind+" "+n.Event)
	}
	if g := strings.Join(got, ", "); g != notices || len(b.messages) != messages {
		b.t.Errorf("%s: notices %q, want %q; %d messages, want %d", b.now.Format(time.TimeOnly), g,
			notices, len(b.messages), messages)
		for _, m := range b.messages {
			b.t.Logf("%s\n%s", m.Subject, m.Text)
		}
	}
	b.notices, b.messages = nil, nil
}

// story is how an alert comes and goes.
type story struct {
	kind   string
	set    func(d *Device, b *bench)
	worse  func(d *Device, b *bench) // nil: it cannot get worse
	unset  func(d *Device, b *bench)
	within time.Duration // raised
}

// stories are those of the kinds that a look at a device, or two, can show.
func stories() []story {
	hour := func(n int) time.Duration { return time.Duration(n) * time.Hour }
	return []story{
		{"server-dead", func(d *Device, _ *bench) { d.dead() }, nil,
			func(d *Device, _ *bench) { d.alive() }, 2 * time.Minute},
		{"no-answer", func(d *Device, _ *bench) {
			d.Answered, d.Status.State = false, control.StateUnreachable
		}, nil, func(d *Device, _ *bench) { d.alive() }, 6 * time.Minute},
		{"disk-missing", func(d *Device, _ *bench) { d.Missing = []string{"/dev/sda"} },
			func(d *Device, _ *bench) { d.Missing = []string{"/dev/sda", "/dev/sdb"} },
			func(d *Device, _ *bench) { d.Missing = nil }, every},
		{"tripped", func(d *Device, _ *bench) { d.Status.Breaker.State = "open" }, nil,
			func(d *Device, _ *bench) { d.Status.Breaker.State = "closed" }, every},
		{"disk-waits", func(d *Device, b *bench) { at := b.now; d.Status.WaitingSince = &at }, nil,
			func(d *Device, _ *bench) { d.Status.WaitingSince = nil }, 80 * time.Second},
		{"flush-failed", func(d *Device, _ *bench) { d.Status.Errors.Flush = 1 },
			func(d *Device, _ *bench) { d.Status.Errors.Flush = 3 },
			func(_ *Device, b *bench) { b.run(hour(1)) }, every},
		{"spare-nearly-used-up", func(d *Device, _ *bench) { d.Status.Spare.Free = 50 },
			func(d *Device, _ *bench) { d.Status.Spare.Free = 25 },
			func(d *Device, _ *bench) { d.Status.Spare.Free = 900 }, every},
		{"disk-to-replace", func(d *Device, _ *bench) { d.Verdict, d.Why = "replace_now", "x" },
			nil, func(d *Device, _ *bench) { d.Verdict = "watch" }, every},
		{"blocks-lost", func(d *Device, _ *bench) { d.Status.Lost = 4 },
			func(d *Device, _ *bench) { d.Status.Lost = 5 },
			func(d *Device, _ *bench) { d.Status.Lost = 0 }, every},
		{"blocks-pending", func(d *Device, _ *bench) { d.Status.Pending = 1 },
			func(d *Device, _ *bench) { d.Status.Pending = 2 },
			func(d *Device, _ *bench) { d.Status.Pending = 0 }, every},
		{"new-bad-blocks", func(d *Device, _ *bench) { d.Status.Remaps = 7 },
			func(d *Device, _ *bench) { d.Status.Remaps = 8 },
			func(_ *Device, b *bench) { b.run(hour(24)) }, every},
		{"metadata-degraded", func(d *Device, _ *bench) {
			d.Status.Metadata.Mirrors[0].State = "stale"
		}, func(d *Device, _ *bench) { d.Status.Metadata.BadSuperblocks = 1 },
			func(d *Device, _ *bench) {
				d.Status.Metadata.Mirrors[0].State, d.Status.Metadata.BadSuperblocks = "good", 0
			}, 31 * time.Minute},
		{"transport-errors", func(d *Device, _ *bench) { d.Status.Errors.Transport = 9 },
			func(d *Device, _ *bench) { d.Status.Errors.Transport = 2 }, // a new server counts anew
			func(_ *Device, b *bench) { b.run(hour(1)) }, every},
		{"table-nearly-full", func(d *Device, _ *bench) {
			d.Status.Table = &control.Table{Entries: 95, Max: 100}
		}, nil, func(d *Device, _ *bench) { d.Status.Table.Max = 1000 }, 61 * time.Minute},
		{MonitorFails, func(_ *Device, b *bench) { b.err = errors.New("no driver") }, nil,
			func(_ *Device, b *bench) { b.err = nil }, 11 * time.Minute},
	}
}

// TestKinds: each kind is raised by what it is about, gets worse, is over, and is an alert for
// Prometheus with the same sentence, severity, delay and runbook.
func TestKinds(t *testing.T) {
	for _, c := range stories() {
		t.Run(c.kind, func(t *testing.T) {
			b := newBench(t, 1)
			d := &b.devices[0]
			k := KindOf(c.kind)
			c.set(d, b)
			if k.For > 0 {
				b.run(k.For - every)
				b.want("", 0)
			}
			b.run(c.within)
			b.want(c.kind+" raised", 1)
			b.run(10 * every)
			b.restart()
			b.run(10 * every)
			b.want("", 0) // it is told once
			if c.worse != nil {
				c.worse(d, b)
				b.run(every)
				b.want(c.kind+" worse", 1)
			}
			c.unset(d, b)
			b.run(2 * settleTime)
			if k.Over == "" {
				b.want("", 0)
			} else {
				b.want(c.kind+" over", 1)
			}
			if l := b.m.List(); len(l) != 0 {
				t.Errorf("it is listed still: %+v", l)
			}
		})
	}
}

// TestRulesAgree: each kind is an alert for Prometheus, and the other way round, with the same
// sentence, delay and severity, and a section that says what it means and what to do.
func TestRulesAgree(t *testing.T) {
	text, err := os.ReadFile("../../contrib/prometheus/ublk-remap.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Split(string(text), "- alert: ")[1:]
	one := func(pattern, in string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(in); m != nil {
			return m[1]
		}
		return ""
	}
	// The delay of these is longer for Prometheus, because a mail in time is worth more.
	later := []string{"blocks-pending"}
	seen, ids := map[string]bool{}, map[string]bool{}
	for _, k := range append(slices.Clip(Kinds), TestKind) {
		if ids[k.MessageID] || len(k.MessageID) != 32 {
			t.Errorf("%s: MESSAGE_ID %q", k.Name, k.MessageID)
		}
		ids[k.MessageID] = true
		meaning, steps := k.parts("x")
		if meaning == "" || k != TestKind && steps == "" {
			t.Errorf("%s: its section %q has no meaning or no steps", k.Name, k.Section)
		}
		if k == TestKind {
			continue
		}
		at := slices.IndexFunc(rules, func(r string) bool {
			return strings.HasPrefix(r, k.Rule+"\n")
		})
		if at < 0 || seen[k.Rule] {
			t.Errorf("%s: no rule %s of its own", k.Name, k.Rule)
			continue
		}
		seen[k.Rule] = true
		r := rules[at]
		wait, _ := time.ParseDuration(one(`(?m)^ +for: (\S+)$`, r))
		if wait != k.For && !slices.Contains(later, k.Name) {
			t.Errorf("%s: for %v, the rule %v", k.Name, k.For, wait)
		}
		if s := one(`severity: (\w+)`, r); s != string(k.Severity) {
			t.Errorf("%s: %s, the rule %s", k.Name, k.Severity, s)
		}
		said := strings.NewReplacer("{{ $labels.set }}", "{set}", "{{ $labels.instance }}", "{set}",
			"{{ $value }}", "{value}", `{{ $value | printf "%.0f" }}`, "{value}").Replace(
			one(`summary: '(.*)'`, r))
		if said != k.Summary {
			t.Errorf("%s says %q, the rule %q", k.Name, k.Summary, said)
		}
		if u := one(`runbook_url: (\S+)`, r); u != k.Runbook() {
			t.Errorf("%s: %s, the rule %s", k.Name, k.Runbook(), u)
		}
	}
	// A monitor that cannot tell does not tell that by itself.
	if len(seen) != len(rules)-1 || !strings.Contains(string(text), "UblkRemapAlertsFail") {
		t.Errorf("%d rules, %d kinds", len(rules), len(seen))
	}
}

// TestStorm: 64 servers that die at once are one message. That they are back is two: the first at
// once, the rest together.
// When they all come back, it is the same.
func TestStorm(t *testing.T) {
	b := newBench(t, 64)
	for i := range b.devices {
		b.devices[i].dead()
	}
	b.run(time.Minute + every)
	if len(b.notices) != 64 || len(b.messages) != 1 || len(b.messages[0].Notices) != 64 {
		t.Fatalf("%d notices, %d messages at once", len(b.notices), len(b.messages))
	}
	b.run(gather)
	if len(b.messages) != 1 {
		t.Fatalf("%d messages", len(b.messages))
	}
	text := b.messages[0].Text
	for _, part := range []string{"set63 is dead", "What to do", "ublk-remap start NAME",
		"ublk-remap alerts ack NAME"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	if n := strings.Count(text, "what it means"); n != 1 {
		t.Errorf("what it means is said %d times", n)
	}
	b.notices, b.messages = nil, nil
	for i := range b.devices {
		b.devices[i].alive()
	}
	b.restart()
	b.run(3 * time.Hour)
	if len(b.notices) != 64 || len(b.messages) != 2 || len(b.messages[1].Notices) != 63 ||
		b.messages[1].Time.Sub(b.messages[0].Time) > time.Hour {
		t.Errorf("they come back: %d notices, %d messages", len(b.notices), len(b.messages))
	}
}

// TestNewBesideWorse: a critical alert that is new does not wait for a digest because another
// device gets worse all the time.
func TestNewBesideWorse(t *testing.T) {
	b := newBench(t, 3)
	for i := range 3 * 60 {
		b.devices[0].Status.Errors.Flush++
		if i == 60 {
			b.devices[1].dead()
			b.devices[2].dead()
		}
		b.run(every)
	}
	if !slices.ContainsFunc(b.messages, func(m *Message) bool {
		return len(m.Notices) == 2 && m.Notices[0].Kind == "server-dead" &&
			m.Time.Sub(m.Notices[1].Time) == 0
	}) {
		t.Errorf("%d messages, and none at once of the servers that died", len(b.messages))
	}
}

// TestFlapping: a device that comes and goes is told of some times, then less and less often.
func TestFlapping(t *testing.T) {
	b := newBench(t, 1)
	for range 12 * 60 / 4 {
		b.devices[0].Status.Breaker.State = "open"
		b.run(2 * time.Minute)
		b.devices[0].Status.Breaker.State = "closed"
		b.run(2 * time.Minute)
	}
	// In twelve hours 180 times.
	if len(b.notices) > 8 || len(b.messages) > 5 {
		t.Errorf("%d notices, %d messages", len(b.notices), len(b.messages))
	}
	b.run(2 * time.Hour)
	if last := b.notices[len(b.notices)-1]; last.Event != Over {
		t.Errorf("the last word is %q", last.Event)
	}
}

// TestMoreAndMore: a disk that gets a pending block every ten seconds for six hours is a few
// messages, and the last one has the last number.
func TestMoreAndMore(t *testing.T) {
	b := newBench(t, 1)
	for range 6 * 60 * 6 {
		b.devices[0].Status.Pending++
		b.run(every)
	}
	b.run(time.Hour)
	last := b.messages[len(b.messages)-1]
	if n := len(b.messages); n > burst*7+7 || !strings.Contains(last.Text, "do not read: 2160.") {
		t.Errorf("%d messages, the last one:\n%s", n, last.Text)
	}
}

// TestUrgent: a critical alert does not wait for a digest because a disk gets worse and worse.
func TestUrgent(t *testing.T) {
	b := newBench(t, 2)
	for range 60 {
		b.devices[0].Status.Pending++
		b.run(every)
	}
	b.messages = nil
	b.devices[1].Status.Breaker.State = "open"
	b.devices[0].Status.Pending++
	b.run(every)
	if len(b.messages) != 1 || b.messages[0].Worst().Kind != "tripped" {
		t.Errorf("%d messages", len(b.messages))
	}
}

// TestAcknowledge: what was acknowledged is not repeated, and is told when it gets worse.
func TestAcknowledge(t *testing.T) {
	b := newBench(t, 2)
	b.devices[0].Status.Lost = 3
	b.run(every)
	b.want("blocks-lost raised", 1)
	b.run(25 * time.Hour)
	b.want("blocks-lost again", 1)
	for _, wrong := range [][]string{{"other"}, {"set00", "tripped"}, {"set01"}} {
		if _, err := b.m.Acknowledge(wrong[0], wrong[1:], b.now); !errors.Is(err, ErrNoAlert) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
	if n, err := b.m.Acknowledge("set00", nil, b.now); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if l := b.m.List(); len(l) != 1 || l[0].Acknowledged == nil {
		t.Errorf("%+v", l)
	}
	b.restart()
	b.run(72 * time.Hour)
	b.want("", 0)
	b.devices[0].Status.Lost = 4
	b.run(every)
	b.want("blocks-lost worse", 1)
	if l := b.m.List(); len(l) != 1 || l[0].Acknowledged != nil {
		t.Errorf("%+v", l)
	}
	b.run(25 * time.Hour)
	b.want("blocks-lost again", 1)
	b.devices[0].Status.Lost = 0
	b.run(2 * time.Minute)
	b.want("blocks-lost over", 1)
}

// TestWhileAway: a monitor that starts tells of what happened while there was none, what is there
// and what is over.
func TestWhileAway(t *testing.T) {
	b := newBench(t, 1)
	d := &b.devices[0]
	d.Told, d.Last = true, EventPlace{Number: 99, Micros: 7}
	d.Events = []Event{{Number: 99, Time: b.now.Add(-time.Hour), What: "tripped", Text: "old"}}
	b.run(every)
	b.want("", 0) // what happened before it was seen first is the past
	d.Events = nil
	if last, known := b.m.LastEvent("uuid-set00"); last != d.Last || !known {
		t.Error(last, known)
	}
	b.restart()
	d.Status.Lost, d.Status.Remaps = 2, 5
	d.Last = EventPlace{Number: 102, Micros: 8}
	d.Events = []Event{
		{Number: 100, Time: b.now, What: "tripped", Text: "remapping stopped: the path fails"},
		{Number: 101, Time: b.now.Add(time.Minute), What: "resumed"},
		{Number: 102, Time: b.now.Add(time.Minute), What: "flush-failed", Text: "the next fails"}}
	b.now = b.now.Add(8 * time.Hour)
	b.run(every)
	d.Events = nil
	b.run(gather)
	b.want("blocks-lost raised, new-bad-blocks raised, tripped past, flush-failed past", 2)
	b.run(time.Hour)
	b.want("", 0)
}

// TestStopped: what is on the disk stays told while a device is stopped; what is of its server is
// over.
func TestStopped(t *testing.T) {
	b := newBench(t, 2)
	b.devices[0].Status.Lost = 1
	b.devices[0].Status.Breaker.State = "open"
	b.run(2 * time.Minute)
	b.want("tripped raised, blocks-lost raised", 2)
	all := b.devices
	b.devices = all[1:]
	b.run(20 * time.Minute)
	b.want("tripped over", 1)
	all[0].Status.Breaker.State = "closed"
	b.devices = all
	b.run(20 * time.Minute)
	b.want("", 0)
	b.devices = all[1:]
	b.now = b.now.Add(forgetTime + time.Hour)
	b.run(every)
	if len(b.m.State.Sets) != 1 {
		t.Error("it is remembered for ever")
	}
	// A list that is not whole says nothing of those that it lacks.
	b.devices, b.err = nil, errors.New("some could not be asked")
	b.now = b.now.Add(forgetTime + time.Hour)
	b.run(every)
	if len(b.m.State.Sets) != 1 {
		t.Error("forgotten, though the list was not whole")
	}
}

// TestSlow: a request in a hundred that takes long, for a quarter of an hour and another.
func TestSlow(t *testing.T) {
	b := newBench(t, 1)
	start := b.now
	fast, late := uint64(0), uint64(0)
	tick := func(d time.Duration, more uint64) {
		for range d / every {
			fast, late = fast+1000, late+more
			b.devices[0].Latencies = &control.Latencies{Started: start,
				Requests: []control.RequestLatency{{Operation: "read", Path: "home",
					Histogram: control.Histogram{Buckets: []control.Bucket{
						{Index: 40, Count: fast},
						{Index: latency.Bucket(2_000_000_000), Count: late}}}}}}
			b.run(every)
		}
	}
	tick(time.Hour, 5)
	b.want("", 0)
	tick(14*time.Minute, 30)
	b.want("", 0)
	tick(15*time.Minute, 30)
	b.want("slow raised", 1)
	tick(30*time.Minute, 0)
	b.want("slow over", 1)
}

// TestReplaced: three servers within an hour after the first.
func TestReplaced(t *testing.T) {
	b := newBench(t, 1)
	for i := range 4 {
		b.devices[0].Latencies = &control.Latencies{Started: b.now, TookOver: i > 0}
		b.run(5 * time.Minute)
	}
	b.want("server-replaced raised", 1)
	b.run(2 * time.Hour)
	b.want("", 0)
}

// TestSpareGoesDown: a spare region that lasts less than a week at the rate of two days.
func TestSpareGoesDown(t *testing.T) {
	b := newBench(t, 1)
	free := func(n uint64) { b.devices[0].Status.Spare.Free = n }
	for i := range uint64(24) { // 6 a day: no hurry
		free(1000 - i/4)
		b.run(time.Hour)
	}
	b.want("", 0)
	for i := range uint64(30) { // 10 an hour
		free(990 - 10*i)
		b.run(time.Hour)
	}
	b.want("spare-goes-down raised", 1)
}

// TestFirstStart: a monitor that knows nothing, because it never ran or because its state was
// damaged, tells of what is there in two messages at most, and not of what was counted before.
func TestFirstStart(t *testing.T) {
	b := &bench{t: t, now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
		m: NewMachine(NewState(), Options{Host: "h", Digest: time.Hour})}
	for i := range 64 {
		d := live(fmt.Sprint("s", i))
		d.Status.Errors.Transport, d.Status.Errors.Flush, d.Status.Remaps = 5, 5, 500
		d.Status.Lost = uint64(i % 2)
		b.devices = append(b.devices, d)
	}
	b.run(3 * time.Hour)
	if len(b.notices) != 32 || len(b.messages) != 2 {
		t.Errorf("%d notices, %d messages", len(b.notices), len(b.messages))
	}
}

// TestHostileNames: a name adds no line to a message, no header, and no command.
func TestHostileNames(t *testing.T) {
	evil := "x\r\nBcc: a@b\n\n.\n\x1b]0;\u202e`rm -rf`\xff"
	b := newBench(t, 1)
	d := live(evil)
	d.Status.Backing, d.Status.Reason, d.Status.Lost = evil, evil, 1
	b.devices = append(b.devices, d)
	b.run(every)
	m := b.messages[0]
	if strings.ContainsAny(m.Subject, "\r\n\x1b\u202e") || strings.Contains(m.Text, "\nBcc") ||
		strings.ContainsAny(m.Text, "\r\x1b\u202e") {
		t.Errorf("%q\n%q", m.Subject, m.Text)
	}
	for _, field := range m.Worst().environment("h\n") {
		if strings.ContainsAny(field, "\r\n\x1b\x00") {
			t.Errorf("%q", field)
		}
	}
	// The command can be copied, whatever the name is.
	if !strings.Contains(m.Text, `ublk-remap alerts ack $'x\x0d\x0aBcc: a@b`) {
		t.Errorf("%s", m.Text)
	}
	if n, err := b.m.Acknowledge(evil, nil, b.now); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// TestRandom: whatever happens, what is open at the end was told and not told to be over, digests
// are an hour apart, and a restart at any moment changes nothing.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for try := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, try))
		b := newBench(t, 5)
		open := map[string]bool{}
		var digests []time.Time
		for range 2000 {
			d := &b.devices[r.IntN(5)]
			switch r.IntN(8) {
			case 0:
				d.dead()
			case 1:
				d.alive()
			case 2:
				d.Status.Pending = r.Uint64N(4)
			case 3:
				d.Status.Breaker.State = []string{"open", "closed"}[r.IntN(2)]
			case 4:
				d.Status.Spare.Free = r.Uint64N(1000)
			case 5:
				d.Status.Errors.Transport = r.Uint64N(5)
			case 6:
				b.restart()
			}
			b.run(time.Duration(1+r.IntN(12)) * every)
			for _, n := range b.notices {
				switch key := n.Set + " " + n.Kind; n.Event {
				case Raised:
					if open[key] {
						t.Fatalf("seed %d %d: %s is raised twice", seed, try, key)
					}
					open[key] = true
				case Over:
					if !open[key] {
						t.Fatalf("seed %d %d: %s is over and was not there", seed, try, key)
					}
					delete(open, key)
				case Worse, Again:
					if n.kind().Over != "" && !open[key] {
						t.Fatalf("seed %d %d: %s is %s and was not there", seed, try, key,
							n.Event)
					}
				}
				if k := n.kind(); k.Over == "" {
					delete(open, n.Set+" "+n.Kind) // its end is not told
				}
			}
			single := 0
			for _, m := range b.messages {
				late := func(n *Notice) bool { return !n.urgent() || n.Time.Before(m.Time) }
				if len(m.Notices) > 1 && slices.ContainsFunc(m.Notices, late) {
					digests = append(digests, m.Time)
				} else {
					single++
				}
			}
			b.notices, b.messages = nil, nil
		}
		for i := 1; i < len(digests); i++ {
			if gap := digests[i].Sub(digests[i-1]); gap < time.Hour {
				t.Fatalf("seed %d %d: digests %v apart", seed, try, gap)
			}
		}
		for _, l := range b.m.List() {
			if k := KindOf(l.Kind); k.Over != "" && !open[l.Set+" "+l.Kind] {
				t.Errorf("seed %d %d: %s %s is listed and was not told", seed, try, l.Set, l.Kind)
			}
		}
	}
}

// FuzzState: whatever a file has, it is either refused or a Machine goes on from it.
func FuzzState(f *testing.F) {
	b := newBench(&testing.T{}, 2)
	b.devices[0].dead()
	b.run(time.Hour)
	text, err := json.Marshal(b.m.State)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"sets":{"a":null}}`))
	f.Add([]byte(`{"version":1,"outbox":{"waiting":[null]}}`))
	f.Add([]byte(`{"version":1,"sets":{"a":{"alerts":{"tripped":{"returns":99}}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), stateFile)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := loadState(path)
		if err != nil && len(s.Sets) != 0 {
			t.Errorf("a part of a state, with %v", err)
		}
		m := NewMachine(s, Options{Host: "h", Digest: time.Hour, Repeat: time.Hour})
		d := live("x")
		d.Status.Lost = 1
		for i := range 100 {
			m.Step(&Round{Time: time.Unix(int64(i)*600, 0), Devices: []Device{d}})
		}
		m.List()
	})
}
