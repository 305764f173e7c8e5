package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/doctor"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/internal/readable"
)

// TestDoctorFits: on a terminal the report fits into its columns and says all words in their order.
// Elsewhere each finding has one line.
func TestDoctorFits(t *testing.T) {
	r := &doctor.Report{Checks: []doctor.Check{
		{Name: "kernel", State: doctor.OK, What: "Linux 7.3"},
		{Name: "device", State: doctor.Warning, What: "/dev/ublkb5 (a-disk-with-a-name) has no " +
			"server, and what it was asked for waits until there is one", Do: "recover it: " +
			"ublk-remap start a-disk-with-a-name; or give it up: " +
			"ublk-remap stop a-disk-with-a-name"},
	}}
	r.Features = append(r.Features, doctor.Feature{Name: "buffer registration from any task",
		Since: "6.17", Purpose: "buffers may be registered by other threads", Present: true})
	var pipe bytes.Buffer
	if err := (&app{stdio: stdio{out: &pipe}}).printDoctor(r); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(pipe.String(), "\n"); n != 4 {
		t.Errorf("%d lines in a pipe:\n%s", n, &pipe)
	}
	t.Setenv("TERM", "xterm")
	master, slave := terminal(t, 80)
	if err := (&app{stdio: stdio{out: slave}}).printDoctor(r); err != nil {
		t.Fatal(err)
	}
	shown := readTerminal(t, master, "6.17)\r\n")
	for line := range strings.Lines(shown) {
		if readable.Columns(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("too wide: %q", line)
		}
	}
	// The words of the last column begin where the first of them does.
	if !strings.Contains(shown, "\n"+strings.Repeat(" ", 40)+"threads (since Linux 6.17)\n") ||
		!slices.Equal(strings.Fields(shown), strings.Fields(pipe.String())) {
		t.Errorf("got\n%s", shown)
	}
}

// TestLogColours: what is logged is in colour where tables are.
func TestLogColours(t *testing.T) {
	for _, tc := range []struct {
		term, none, force string
		want              bool
	}{{"xterm", "", "", true}, {"xterm", "1", "1", false}, {"dumb", "", "", false},
		{"", "", "", false}, {"dumb", "", "1", true}} {
		t.Setenv("CLICOLOR", "")
		t.Setenv("CLICOLOR_FORCE", tc.force)
		t.Setenv("TERM", tc.term)
		t.Setenv("NO_COLOR", tc.none)
		master, slave := terminal(t, 80)
		log, err := logging.New(slave, "info", "console")
		if err != nil {
			t.Fatal(err)
		}
		log.Warn().Msg("careful")
		if _, err := slave.WriteString("end"); err != nil {
			t.Fatal(err)
		}
		if got := readTerminal(t, master, "end"); strings.Contains(got, "\x1b[") != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}
