package main

import (
	"strings"
	"testing"
	"time"

	"ublkremap/internal/control"
)

// TestCheckLine: what a plugin says of each state of a device, and of several devices.
func TestCheckLine(t *testing.T) {
	t.Parallel()
	at := time.Now()
	limits := checkLimits{warning: 25, critical: 5}
	device := func(state control.State, change func(*control.Status)) *control.Status {
		st := &control.Status{Name: "a|b", State: state, Reason: "a reason", ServerPID: 1,
			Spare: control.Spare{Total: 200, Free: 100}, Remaps: 7,
			Errors: control.Errors{Read: 1, Write: 2, Flush: 4}}
		st.Metadata.Mirrors = []control.Mirror{{State: "good"}}
		if change != nil {
			change(st)
		}
		return st
	}
	spare := func(free uint64) func(*control.Status) {
		return func(st *control.Status) { st.Spare.Free = free }
	}
	for _, c := range []struct {
		st    *control.Status
		state pluginState
		text  string
	}{
		{device(control.StateLive, nil), pluginOK, "a/b: live, 7 units remapped | "},
		{device(control.StateDegraded, nil), pluginWarning, "degraded: a reason"},
		{device(control.StateRecovering, nil), pluginWarning, "recovering"},
		{device(control.StateStopping, nil), pluginWarning, "stopping"},
		{device(control.StateTripped, nil), pluginCritical, "tripped: a reason"},
		{device(control.StateFailed, nil), pluginCritical, "failed"},
		{device(control.StateLive, func(st *control.Status) { st.WaitingSince = &at }),
			pluginWarning, "wait for the disk"},
		{device(control.StateLive, func(st *control.Status) {
			st.Requests.Slow, st.Requests.SlowSince = 2, &at
		}), pluginWarning, "2 requests wait for the disk"},
		{device(control.StateLive, func(st *control.Status) { st.Requests.SlowLast = &at }),
			pluginWarning, "requests waited for the disk for seconds"},
		{device(control.StateLive, func(st *control.Status) { st.Lost = 1234 }), pluginWarning,
			"1,234 blocks are lost"},
		{device(control.StateLive, func(st *control.Status) { st.Pending = 1 }), pluginWarning,
			"1 blocks do not read"},
		{device(control.StateLive, spare(51)), pluginOK, "live"},
		{device(control.StateLive, spare(50)), pluginWarning, "25 % of the spare region"},
		{device(control.StateLive, spare(10)), pluginCritical, "5 % of the spare region"},
		{device(control.StateDegraded, spare(0)), pluginCritical, "degraded: a reason, 0 %"},
	} {
		state, text := checkAll([]*control.Status{c.st}, limits)
		if state != c.state || !strings.Contains(text, c.text) || strings.Contains(text, "\n") ||
			strings.Count(text, "|") != 1 {
			t.Errorf("%v, %q; want %v with %q", state, text, c.state, c.text)
		}
	}
	state, text := checkAll([]*control.Status{device(control.StateLive, nil),
		device(control.StateFailed, nil), device(control.StateDegraded, nil)}, limits)
	if state != pluginCritical || !strings.HasPrefix(text, "a/b: failed") {
		t.Errorf("%v, %q", state, text)
	}
	_, data, _ := strings.Cut(text, " | ")
	if !strings.HasPrefix(data, "'a_b remapped'=7;;;0;200 'a_b pending'=0;0;;0 'a_b lost'=0;0;;0 "+
		"'a_b spare free'=100;50:;10:;0;200 'a_b errors'=7c") {
		t.Errorf("%q", data)
	}
	dead := device(control.StateFailed, func(st *control.Status) { st.ServerPID = 0 })
	if _, text := checkAll([]*control.Status{device(control.StateUnreachable, nil)},
		limits); text != "a/b: unreachable: a reason" {
		t.Errorf("%q", text)
	}
	if _, text := checkAll([]*control.Status{dead}, limits); strings.Contains(text, "|") {
		t.Errorf("figures of a server that is dead: %q", text)
	}
	if state, text := checkAll(nil, limits); state != pluginOK || text == "" {
		t.Errorf("%v, %q", state, text)
	}
	if pluginUnknown.worse(pluginOK) != pluginUnknown ||
		pluginUnknown.worse(pluginWarning) != pluginWarning {
		t.Error("UNKNOWN is worse than OK, and not worse than WARNING")
	}
}
