package alert

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ublkremap/internal/attention"
	"ublkremap/internal/control"
)

// TestNotWell: while an alert is there, its device is not well, and something is to be done. That
// holds for the alerts that a device's status shows also before the monitor has told.
func TestNotWell(t *testing.T) {
	// What happened within a time is known from the alert only.
	past := []string{"flush-failed", "disk-to-replace", "new-bad-blocks", "transport-errors"}
	for _, c := range stories() {
		if c.kind == MonitorFails {
			continue // it is about no device
		}
		b := newBench(t, 1)
		st := b.devices[0].Status
		c.set(&b.devices[0], b)
		b.run(KindOf(c.kind).For + c.within)
		st.Missing = b.devices[0].Missing
		if !slices.Contains(past, c.kind) {
			if c.kind == "tripped" {
				st.State = control.StateTripped
			}
			if all := attention.Of(st); all.Level() == attention.Good {
				t.Errorf("%s: without the alert: %s", c.kind, all.Says())
			}
		}
		for _, l := range b.m.List() {
			st.Alerts = append(st.Alerts, l.Alert)
		}
		told := false
		for _, p := range attention.Of(st) {
			told = told || slices.Contains(p.Alerts, c.kind) && p.Level > attention.Good &&
				p.Says != ""
		}
		if len(st.Alerts) != 1 || !told {
			t.Errorf("%s: %+v, %q", c.kind, st.Alerts, attention.Of(st).Says())
		}
	}
}

// TestSteps: each kind has something to do that the status does not name, with the command that its
// rule for Prometheus names.
func TestSteps(t *testing.T) {
	text, err := os.ReadFile("../../contrib/prometheus/ublk-remap.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	// What to do about a status of its own has more words, and the command of the status.
	shown := []string{"server-dead", "blocks-lost", "blocks-pending", "spare-nearly-used-up"}
	for _, k := range Kinds {
		if k.judge == nil {
			continue
		}
		st := live("media").Status
		st.Alerts = []control.Alert{{Kind: k.Name, Severity: string(k.Severity),
			Text: say(k.Summary, "media", "3")}}
		all := attention.Of(st)
		_, command := attention.Command(all.Next())
		rule := string(text)[strings.Index(string(text), "- alert: "+k.Rule+"\n"):]
		action := regexp.MustCompile(`action: '(.*)'`).FindStringSubmatch(rule)[1]
		want := strings.ReplaceAll(action, "{{ $labels.set }}", "media")
		if slices.Contains(shown, k.Name) {
			want = "ublk-remap status media"
		}
		if all.Level() == attention.Good || command != want {
			t.Errorf("%s: %q, next %q, the rule has %q", k.Name, all.Says(), command, want)
		}
	}
}
