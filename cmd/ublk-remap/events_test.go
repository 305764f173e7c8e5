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
