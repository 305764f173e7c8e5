package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"ublkremap/internal/control"
)

// TestStatusFits: state, reason and action come in that order, and no line is wider than a
// terminal.
func TestStatusFits(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdio: stdio{out: &out}}
	err := a.printStatus(&control.Status{
		Device: "/dev/ublkb12", Name: "archive", UUID: strings.Repeat("u", 36),
		State: control.StateDegraded, Backing: "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4",
		Reason:     strings.Repeat("the mirror of the metadata is stale; ", 6),
		Action:     strings.Repeat("copy the data to another disk ", 6),
		SizeBlocks: 1 << 40, BlockSize: 512, ServerPID: 4194304,
		Errors:  control.Errors{Read: 1e9, Write: 1e9, Flush: 1e6, Transport: 1e6},
		IO:      control.IO{Reads: 1e12, Writes: 1e12, ReadBytes: 1e15, WriteBytes: 1e15},
		Breaker: control.Breaker{State: "closed"},
	})
	if err != nil {
		t.Fatal(err)
	}
	text := out.String()
	at := func(s string) int { return strings.Index(text, "\n"+s) }
	if !(0 < at("state") && at("state") < at("reason") && at("reason") < at("action") &&
		at("action") < at("backing")) {
		t.Error("not in this order: state, reason, action")
	}
	for _, line := range strings.Split(text, "\n") {
		if utf8.RuneCountInString(line) > 80 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
}
