package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"ublkremap/internal/alert"
	"ublkremap/internal/control"
)

// TestStatusOfAlerts: while an alert of any kind is there, status says so in each form for people,
// with what to do, and check does not say OK.
func TestStatusOfAlerts(t *testing.T) {
	for _, k := range alert.Kinds {
		if k.Name == alert.MonitorFails {
			continue // it is about no device
		}
		st := &control.Status{Device: "/dev/ublkb0", Name: "media", State: control.StateLive,
			ServerPID: 1, Spare: control.Spare{Total: 100, Free: 100},
			Metadata: control.Metadata{Mirrors: []control.Mirror{{State: "good"}}},
			Breaker:  control.Breaker{State: "closed"}, Scrub: control.Scrub{State: "idle"},
			Alerts: []control.Alert{{Kind: k.Name, Severity: string(k.Severity),
				Text: "Planted words.", Since: time.Now()}}}
		var text, brief bytes.Buffer
		if err := (&app{stdio: stdio{out: &text}}).printStatus(st); err != nil {
			t.Fatal(err)
		}
		if err := (&app{stdio: stdio{out: &brief}}).printBrief([]*control.Status{st}); err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{text.String(), brief.String()} {
			if !strings.Contains(s, "planted words") || !strings.Contains(s, "ublk-remap ") {
				t.Errorf("%s:\n%s", k.Name, s)
			}
		}
		if !strings.Contains(text.String(), k.Name+", since ") {
			t.Errorf("the alert %s has no name:\n%s", k.Name, &text)
		}
		want := pluginWarning
		if k.Severity == alert.Critical {
			want = pluginCritical
		}
		if state, said := checkAll([]*control.Status{st}, checkLimits{25, 5}); state != want {
			t.Errorf("%s: check says %v, %s", k.Name, state, said)
		}
	}
}
