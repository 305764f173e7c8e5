package attention_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/internal/attention"
	"ublkremap/internal/control"
)

// well is a device that nothing is with.
func well() *control.Status {
	return &control.Status{Name: "media", State: control.StateLive, ServerPID: 1,
		Backing: "/dev/sda", Spare: control.Spare{Total: 1000, Free: 1000},
		Table:    &control.Table{Max: 1000},
		Metadata: control.Metadata{Mirrors: []control.Mirror{{State: "good"}, {State: "good"}}},
		Alerts:   []control.Alert{}}
}

func alert(kind, severity, text string) func(*control.Status) {
	return func(st *control.Status) {
		st.Alerts = append(st.Alerts, control.Alert{Kind: kind, Severity: severity, Text: text})
	}
}

// TestWords: what is said of a device, how bad it is, and what to do, in the order in which to do
// it.
func TestWords(t *testing.T) {
	since := time.Now()
	state := func(s control.State, reason, action string) func(*control.Status) {
		return func(st *control.Status) { st.State, st.Reason, st.Action = s, reason, action }
	}
	for name, c := range map[string]struct {
		change []func(*control.Status)
		level  attention.Level
		rank   attention.Rank
		says   string
		next   string
	}{
		"well": {nil, attention.Good, attention.RankWell, "all is well", ""},
		"slow alert": {[]func(*control.Status){alert("slow", "warning",
			"One request in a hundred of media takes longer than a second.")}, attention.Watch,
			attention.RankWarning, "one request in a hundred of media takes longer than a second",
			"see what the disk says of itself: ublk-remap health media"},
		"an alert that begins with the name": {[]func(*control.Status){alert("new-bad-blocks",
			"warning", "media got 7.")}, attention.Watch,
			attention.RankWarning, "media got 7",
			"look at the disk: ublk-remap health media"},
		"an alert of a newer monitor": {[]func(*control.Status){alert("x", "critical", "X!")},
			attention.Bad, attention.RankCritical, "x!", "see: ublk-remap status media"},
		"an alert that the status explains": {[]func(*control.Status){
			func(st *control.Status) { st.Pending = 1 },
			alert("blocks-pending", "warning", "Blocks of media do not read: 1.")},
			attention.Watch, attention.RankPending, "1 block does not read",
			"restore the files from a backup; these are: ublk-remap files media"},
		"slow at times": {[]func(*control.Status){
			func(st *control.Status) { st.Requests.SlowLast = &since }}, attention.Watch,
			attention.RankSlow,
			"requests waited for the disk for seconds, less than a minute ago",
			"look at the disk: ublk-remap health media"},
		"cables before the disk": {[]func(*control.Status){
			func(st *control.Status) { st.Requests.SlowSince, st.Requests.Slow = &since, 3 },
			alert("new-bad-blocks", "warning", "media got 3."),
			alert("transport-errors", "warning", "The way has errors.")}, attention.Watch,
			attention.RankWay,
			"the way has errors; media got 3; 3 requests wait for the disk",
			"check its cable, its power and its controller; what the disk counts: " +
				"ublk-remap health media"}, // the command is there once
		"gone": {[]func(*control.Status){state(control.StateTripped, "it answers ENODEV",
			"check the disk's cables and power, then: ublk-remap resume media"),
			func(st *control.Status) { st.Missing = []string{"/dev/sda"} }}, attention.Bad,
			attention.RankMissing,
			"a disk of it is gone: /dev/sda; remapping is stopped: it answers ENODEV",
			"bring the disk back: its cables, its power, its controller; then: " +
				"ublk-remap resume media"},
		"gone, without a server": {[]func(*control.Status){state(control.StateFailed, "dead",
			"ublk-remap start media"), func(st *control.Status) {
			st.ServerPID, st.Missing = 0, []string{"/dev/sda", "/dev/sdb"}
		}}, attention.Bad, attention.RankMissing,
			"disks of it are gone: /dev/sda and /dev/sdb; dead",
			"bring the disks back: their cables, their power, their controllers; then: " +
				"ublk-remap start media"},
		"dead, with an alert of before": {[]func(*control.Status){state(control.StateFailed, "dead",
			"ublk-remap start media"), func(st *control.Status) { st.ServerPID = 0 },
			alert("tripped", "critical", "Remapping of media is stopped; errors reach its users.")},
			attention.Bad, attention.RankFailed, "dead", "ublk-remap start media"},
		"a state without a reason": {[]func(*control.Status){state("new", "", "")},
			attention.Watch, attention.RankDegraded, "it is new", ""},
		"lost and waiting": {[]func(*control.Status){state(control.StateLive, "nothing comes",
			"wait"), func(st *control.Status) { st.WaitingSince, st.Lost = &since, 2 }},
			attention.Bad, attention.RankLost,
			"2 blocks have lost their data; nothing comes",
			"restore the files from a backup; these are: ublk-remap files media; then: wait"},
		"full": {[]func(*control.Status){state(control.StateDegraded, "no spare unit is free",
			"copy the data to another disk while this one reads"),
			func(st *control.Status) { st.Spare.Free = 0 },
			alert("spare-nearly-used-up", "critical", "media has 0 spare units left."),
			alert("disk-to-replace", "critical", "Replace.")}, attention.Bad, attention.RankFull,
			"no spare unit is free; replace",
			"copy the data to another disk while this one reads; why: ublk-remap health media"},
		"a superblock": {[]func(*control.Status){func(st *control.Status) {
			st.Metadata.BadSuperblocks = 1
		}}, attention.Watch, attention.RankDegraded, "1 superblock cannot be written",
			"the disk fails where its records lie; keep a copy of them elsewhere: " +
				"ublk-remap metadata backup media FILE"},
		"a dead server's figures": {[]func(*control.Status){state(control.StateFailed, "dead", ""),
			func(st *control.Status) { st.ServerPID, st.Lost = 0, 9 }}, attention.Bad,
			attention.RankFailed, "dead", ""},
	} {
		st := well()
		for _, f := range c.change {
			f(st)
		}
		all := attention.Of(st)
		if all.Level() != c.level || all.Rank() != c.rank || all.Says() != c.says ||
			all.Next() != c.next {
			t.Errorf("%s: level %d, rank %d, %q, next %q;\nwant %d, %d, %q, %q", name,
				all.Level(), all.Rank(), all.Says(), all.Next(), c.level, c.rank, c.says, c.next)
		}
	}
}

// TestMore: what a caller knows besides is said, unless the status says it too.
func TestMore(t *testing.T) {
	more := attention.Point{Level: attention.Bad, Rank: attention.RankCritical, Says: "replace it",
		Alerts: []string{"disk-to-replace"}}
	st := well()
	alert("disk-to-replace", "critical", "The disk is bad.")(st)
	if all := attention.Of(st, more); all.Says() != "replace it" {
		t.Errorf("%q", all.Says())
	}
	st.State, st.Reason = control.StateTripped, "stopped"
	if all := attention.Of(st, more); all.Says() != "remapping is stopped: stopped" {
		t.Errorf("%q", all.Says())
	}
}

// TestSentences: in a list each point is a sentence, in which names and paths keep their letters.
func TestSentences(t *testing.T) {
	st := well()
	st.State, st.Reason, st.Missing = control.StateFailed, "dead", []string{"/dev/sda"}
	alert("new-bad-blocks", "warning", "media got 3.")(st)
	alert("x", "warning", "Look!")(st)
	want := []string{"A disk of it is gone: /dev/sda.", "Dead.", "media got 3.", "Look!"}
	if got := attention.Of(st).Sentences(st.Name); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	st.Name, st.Alerts, want = "", nil, want[:2] // nothing is known of it but its number
	if got := attention.Of(st).Sentences(st.Name); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestHostileName: whatever a name is, the command of a step is the one that was meant.
func TestHostileName(t *testing.T) {
	st := well()
	st.Name = "a: ublk-remap stop b"
	alert("slow", "warning", "Slow.")(st)
	words, typed := attention.Command(attention.Of(st).Next())
	if words != "see what the disk says of itself" ||
		!strings.HasPrefix(typed, "ublk-remap health 'a: ") {
		t.Errorf("%q, %q", words, typed)
	}
}
