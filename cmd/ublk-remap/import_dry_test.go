package main

import (
	"bytes"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// TestImportFits: a dry run of an import says so if the remap table is too small for the list, and
// fails if it cannot grow.
func TestImportFits(t *testing.T) {
	r := &control.Record{Device: "/dev/ublkb0", Name: "data"}
	for _, c := range []struct {
		table *control.Table
		runs  uint64
		code  int
		said  string
	}{
		{nil, 1 << 40, 0, ""}, // an older server
		{&control.Table{Entries: 10, Max: 20}, 10, 0, ""},
		{&control.Table{Entries: 10, Max: 20}, 11, 0, "room for 10 runs of blocks, and about 11"},
		{&control.Table{Entries: 30, Max: 20, Growth: "under way"}, 1, 0, "room for 0 runs"},
		{&control.Table{Entries: 10, Max: 20, Growth: "no room"}, 11, exit.Failed, "room for 10"},
	} {
		var b bytes.Buffer
		out := imported{DryRun: true}
		err := out.fits(r, c.table, c.runs)
		if e := (&app{stdio: stdio{out: &b}}).printImported(out, importOptions{}); e != nil {
			t.Fatal(e)
		}
		text := b.String()
		if err != nil {
			text += err.Error()
		}
		if exit.Code(err) != c.code || !strings.Contains(text, c.said) ||
			c.said == "" && strings.Contains(text, "room") {
			t.Errorf("%+v, %d runs: %v\n%s", c.table, c.runs, err, text)
		}
	}
}

// TestRetestNoteFits: the line of a retest fits into 80 columns, so that all of it is shown.
func TestRetestNoteFits(t *testing.T) {
	for _, step := range []string{"find", "write", "displace", "read", "pause", "take"} {
		for _, second := range []bool{false, true} {
			line := "retest: 59m59s so far, " + retestNote(&control.Retest{Step: step,
				Second: second, Found: 888, Home: 8, Failed: 888})
			if len(line) >= 80 || strings.Contains(line, ", :") {
				t.Errorf("%d columns: %s", len(line), line)
			}
		}
	}
}
