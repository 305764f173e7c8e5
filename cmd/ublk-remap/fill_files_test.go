package main

import (
	"bytes"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/fill"
)

// TestFilledFilesFail: blocks that the backup has and that could not be filled are a failure. Files
// that were left alone are none.
func TestFilledFilesFail(t *testing.T) {
	left := fill.File{Path: "/mnt/a", State: fill.StateLeft, Why: "byte 1 differs", Bad: 8}
	failed := fill.File{Path: "/mnt/b", State: fill.StateLeft, Why: "no spare unit", Bad: 8,
		Failed: 8}
	for _, json := range []bool{false, true} {
		var out bytes.Buffer
		a := &app{stdio: stdio{out: &out}, json: json}
		if err := a.printFilledFiles(filledFiles{Files: []fill.File{left}}); err != nil {
			t.Errorf("left alone: %v", err)
		}
		err := a.printFilledFiles(filledFiles{Device: "/dev/ublkb0",
			Files: []fill.File{left, failed, failed}})
		if exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "16 blocks") ||
			!strings.Contains(out.String(), "/mnt/b") {
			t.Errorf("not filled: %v, and %s", err, &out)
		}
	}
}
