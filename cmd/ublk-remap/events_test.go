package main

import (
	"bytes"
	"strings"
	"testing"

	"ublkremap/metadata"
)

// TestNoEvents: an empty flight recorder is told in words, once. What comes later has a header.
func TestNoEvents(t *testing.T) {
	var out bytes.Buffer
	p := eventPrinter{app: &app{stdio: stdio{out: &out}}}
	for range 2 {
		if err := p.print(nil); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != "nothing has happened yet\n" {
		t.Errorf("%q", &out)
	}
	for range 2 {
		if err := p.print([]metadata.Event{{Kind: metadata.EventDrill}}); err != nil {
			t.Fatal(err)
		}
	}
	if text := out.String(); strings.Count(text, "\n") != 4 || strings.Count(text, "TIME") != 1 {
		t.Errorf("%q", text)
	}
	out.Reset()
	if err := (&eventPrinter{app: &app{stdio: stdio{out: &out}, json: true}}).print(
		nil); err != nil || out.Len() > 0 {
		t.Errorf("as JSON: %q, %v", &out, err)
	}
}

// TestEventsFit: on a narrow terminal each line of an event fits, and all is told.
func TestEventsFit(t *testing.T) {
	t.Setenv("TERM", "xterm")
	master, slave := terminal(t, 80)
	p := eventPrinter{app: &app{stdio: stdio{out: slave}}}
	if err := p.print([]metadata.Event{{Kind: metadata.EventStart, Detail: 7},
		{Kind: metadata.EventRecovery}, {Kind: metadata.EventPending, HasBlock: true,
			Block: 123456789012, Count: 88, Errno: 5, HasLatency: true, Latency: 7204000,
			HasTemperature: true, Temperature: 40}}); err != nil {
		t.Fatal(err)
	}
	shown := readTerminal(t, master, "40C\r\n")
	for line := range strings.Lines(shown) {
		if len(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("too wide: %q", line)
		}
	}
	for _, part := range []string{"TIME", "/dev/ublkb7", "block 123456789012, count 88, EIO,",
		"7.204s, 40C"} {
		if !strings.Contains(shown, part) {
			t.Errorf("no %q in\n%s", part, shown)
		}
	}
}
