package top

import (
	"context"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"ublkremap/internal/alert"
	"ublkremap/internal/control"
)

// inTop is a host of one device, for top.
type inTop struct {
	Source
	st *control.Status
}

func (s inTop) List(context.Context) ([]Listed, error) {
	return []Listed{{Status: s.st, Asked: true}}, nil
}

// TestTopOfAlerts: while an alert of any kind is there, top does not say that all is well.
func TestTopOfAlerts(t *testing.T) {
	for _, k := range alert.Kinds {
		if k.Name == alert.MonitorFails {
			continue
		}
		st := &control.Status{Device: "/dev/ublkb0", Name: "media", State: control.StateLive,
			Alerts: []control.Alert{{Kind: k.Name, Severity: string(k.Severity),
				Text: "Planted words."}}}
		for _, size := range []tea.WindowSizeMsg{{Width: 80, Height: 24}, {Width: 40, Height: 10}} {
			m := New(t.Context(), inTop{st: st}, time.Now, Terminal{})
			var answers func(tea.Cmd)
			answers = func(c tea.Cmd) {
				if c == nil {
					return
				}
				switch msg := c().(type) {
				case tea.BatchMsg:
					for _, one := range msg[1:] { // the first one is the next tick
						answers(one)
					}
				default:
					m.Update(msg)
				}
			}
			m.Update(size)
			answers(m.Init())
			text := m.View().Content
			if !strings.Contains(text, "planted words") || strings.Contains(text, "all is well") ||
				!strings.Contains(text, "live !") || !strings.Contains(text, "1 needs attention") &&
				size.Width == 80 || strings.Contains(text, "next: nothing") {
				t.Errorf("%s:\n%s", k.Name, text)
			}
		}
	}
}
