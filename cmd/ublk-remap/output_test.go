package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
)

// TestJSONIsPrintable: names are somebody's choice; what is printed says the same and tells
// a terminal nothing.
func TestJSONIsPrintable(t *testing.T) {
	for _, name := range []string{"plain", "rtl\u202egnp", "c1\u009b31m", "zero\u200bwidth\ufeff",
		"ü€😀", "tag\U000e0041", "del\x7f", "line\u2028"} {
		var out bytes.Buffer
		a := &app{stdio: stdio{out: &out}}
		if err := a.printJSON(map[string]string{"name": name}); err != nil {
			t.Fatal(err)
		}
		if s := strings.ReplaceAll(out.String(), "\n", ""); strings.ContainsFunc(s,
			func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", name, s)
		}
		var back map[string]string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["name"] != name {
			t.Errorf("%q: read back as %q, %v", name, back["name"], err)
		}
	}
}

// TestStatusFits: state, reason, action, in that order, and nothing wider than a terminal.
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

// TestForeignNamesAreShownHarmlessly: the command makes no such names, but a disk may come
// from anywhere.
func TestForeignNamesAreShownHarmlessly(t *testing.T) {
	useRuntimeDir(t)
	const name = "a\u202egnp\u009b31m"
	disk := diskFile(t, 24<<20)
	d, err := blockdev.Open(context.Background(), disk, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: d.Size(), BlockSize: 4096,
		Name: name})
	if err == nil {
		err = metadata.Create([]metadata.Device{d}, plan, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	patch(t, disk, 0, make([]byte, 4096)) // so that repair has something to say
	for _, args := range [][]string{
		{"metadata", "check", disk}, {"metadata", "check", "--json", disk},
		{"metadata", "dump", disk}, {"metadata", "repair", "--dry-run", disk},
		{"metadata", "repair", "--dry-run", "--json", disk}, {"metadata", "backup", disk,
			filepath.Join(t.TempDir(), "b")}, {"release", "--dry-run", disk},
	} {
		r := mustRun(t, 0, args...)
		if !strings.Contains(r.out+r.err, `\u202e`) ||
			strings.ContainsFunc(strings.ReplaceAll(r.out+r.err, "\n", ""),
				func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", args[:2], r.out+r.err)
		}
	}
}
