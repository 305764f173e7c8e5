package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// keptConsoles is how many console logs of earlier guests stay in the cache.
const keptConsoles = 50

// consoleTail is how many lines of a console are shown if a guest sent no result.
const consoleTail = 60

// newConsole makes the file for a guest's console, and removes the oldest files beyond
// keptConsoles. The name has the time and the process, so that the names sort by age.
func newConsole(cache string) (string, error) {
	dir := filepath.Join(cache, "console")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if old, err := filepath.Glob(filepath.Join(dir, "*.log")); err == nil &&
		len(old) > keptConsoles {
		slices.Sort(old)
		for _, name := range old[:len(old)-keptConsoles] {
			_ = os.Remove(name)
		}
	}
	name := fmt.Sprintf("%s-%d.log", time.Now().UTC().Format("20060102T150405.000"), os.Getpid())
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, nil, 0o644)
}

func (g *guestRun) removeConsole() {
	if g.console != "" {
		_ = os.Remove(g.console)
	}
}

// tailConsole reports a guest that sent no result, with the end of its console.
func (g *guestRun) tailConsole(why error) {
	g.h.logf("%v; console: %s", why, g.console)
	raw, err := os.ReadFile(g.console)
	if err != nil {
		return
	}
	lines := bytes.Split(bytes.TrimRight(raw, "\r\n"), []byte("\n"))
	if len(lines) > consoleTail {
		lines = lines[len(lines)-consoleTail:]
	}
	for _, l := range lines {
		_, _ = fmt.Fprintf(g.h.stderr, "  | %s\n", bytes.TrimRight(l, "\r"))
	}
}
