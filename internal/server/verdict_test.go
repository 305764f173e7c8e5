package server

import (
	"strings"
	"testing"

	"ublkremap/internal/control"
)

// TestJudge: everything that is not well has a reason, and an action that exists.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name           string
		change         func(*control.Status)
		live           bool
		superblocks    int
		state          control.State
		reason, action string
	}{
		{"well", func(*control.Status) {}, true, 3, control.StateLive, "", ""},
		{"starting", func(*control.Status) {}, false, 3, control.StateRecovering, "I/O waits",
			"wait"},
		{"tripped", func(s *control.Status) {
			s.Breaker = control.Breaker{State: "open",
				Reason: "the disk is gone"}
		}, true, 3,
			control.StateTripped, "the disk is gone", "ublk-remap resume 'an;odd'"},
		{"full", func(s *control.Status) { s.Spare.Free = 0 }, true, 3, control.StateDegraded,
			"no spare unit is free", "copy the data"},
		{"superblocks", func(*control.Status) {}, true, 1, control.StateDegraded,
			"only one superblock", "copy the data"},
		{"mirror", func(s *control.Status) { s.Metadata.Mirrors[1].State = "stale" }, true, 3,
			control.StateDegraded, "backing@900 is stale", "by itself"},
		{"table grows", func(s *control.Status) {
			s.Table = &control.Table{Entries: 60, Max: 100, Growth: "under way"}
		}, true, 3, control.StateDegraded, "60 of 100 entries", "wait"},
		{"table half full", func(s *control.Status) {
			s.Table = &control.Table{Entries: 55, Max: 100, Growth: "no room"}
		}, true, 3, control.StateLive, "", ""},
		{"table full", func(s *control.Status) {
			s.Table = &control.Table{Entries: 75, Max: 100, Growth: "no room"}
		}, true, 3, control.StateDegraded, "no room for a larger one", "copy the data"},
		{"table waits", func(s *control.Status) {
			s.Table = &control.Table{Entries: 75, Max: 100, Growth: "waits"}
		}, true, 3, control.StateDegraded, "when all mirrors", "copy the data"},
		{"full and superblocks", func(s *control.Status) { s.Spare.Free = 0 }, true, 1,
			control.StateDegraded, "only one superblock", "copy the data"},
	} {
		st := &control.Status{
			Name: "an;odd", Spare: control.Spare{Total: 10, Free: 5},
			Breaker: control.Breaker{State: "closed"},
			Metadata: control.Metadata{Mirrors: []control.Mirror{{Location: "backing@100",
				State: "good"}, {Location: "backing@900", State: "good"}}},
		}
		c.change(st)
		judge(st, c.live, c.superblocks)
		if st.State != c.state || !strings.Contains(st.Reason, c.reason) ||
			!strings.Contains(st.Action, c.action) {
			t.Errorf("%s: %s, %q, %q", c.name, st.State, st.Reason, st.Action)
		}
		if (st.State == control.StateLive) != (st.Reason == "") ||
			(st.Reason == "") != (st.Action == "") {
			t.Errorf("%s: %s, %q, %q: a reason and an action wherever something is wrong", c.name,
				st.State, st.Reason, st.Action)
		}
		if strings.Count(st.Action, "copy the data to another disk") > 1 {
			t.Errorf("%s: said twice: %q", c.name, st.Action)
		}
	}
}
