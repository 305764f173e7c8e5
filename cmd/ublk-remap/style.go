package main

import (
	"bytes"
	"fmt"
	"strings"

	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/attention"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// Colours, as ECMA-48 has them (SGR). They are never all that tells things apart.
const (
	plain    = ""
	good     = "32"   // green
	warning  = "33"   // yellow
	alarming = "1;31" // bold red
)

// colours reports whether standard output takes colours.
func (a *app) colours() bool { return logging.Colours(a.out) }

// painted returns a text in a colour. The text is safe to print.
func painted(text, colour string) string {
	if colour == plain {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// colourOf says how bad a state is.
func colourOf(s control.State) string {
	switch attention.LevelOf(s) {
	case attention.Good:
		return good
	case attention.Bad:
		return alarming
	}
	return warning
}

// paintedTable is table with the last cells of some rows in a colour: colour says in which.
func (a *app) paintedTable(rows [][]string, colour func(row []string) string) error {
	var b bytes.Buffer
	if err := (&app{stdio: stdio{out: &b}}).table(rows); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i, row := range rows {
		// A cell has no end of line, so that lines are rows.
		last := readable.Text(row[len(row)-1])
		if start, ok := strings.CutSuffix(lines[i], last); ok {
			lines[i] = start + painted(last, colour(row))
		}
	}
	_, err := fmt.Fprintln(a.out, strings.Join(lines, "\n"))
	return err
}

// width returns the columns of standard output; 0 if it is no terminal.
func (a *app) width() int { return progress.Width(a.out) }
