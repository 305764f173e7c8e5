package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// TestJSONIsPrintable: a name can contain anything. The printed JSON has the same value and
// contains no commands for a terminal.
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

// TestForeignNamesAreShownHarmlessly: the command makes no such names, but a disk from elsewhere
// can have them.
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
	patch(t, disk, 0, make([]byte, 4096)) // so that repair has something to report
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
