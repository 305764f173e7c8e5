package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/internal/readable"
)

// printJSON prints a value as one JSON document.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(jsonWriter{a.out})
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// jsonWriter passes JSON on. It escapes every character that a terminal could read as a command, or
// that changes the direction of writing. Anybody can choose the names on a disk, and people also
// read JSON on terminals. Each Write contains whole characters.
type jsonWriter struct{ io.Writer }

// Write escapes characters that are not printable. Such characters can only be in strings.
func (w jsonWriter) Write(p []byte) (int, error) {
	_, err := w.Writer.Write(escapeJSON(p))
	return len(p), err
}

func escapeJSON(p []byte) []byte {
	odd := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
	if bytes.IndexFunc(p, odd) < 0 {
		return p
	}
	out := make([]byte, 0, len(p)+64)
	for _, r := range string(p) {
		if !odd(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, u := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, u)
		}
	}
	return out
}

// tell writes to standard error. Nobody can be told if that fails.
func (a *app) tell(format string, args ...any) {
	if a.far != nil {
		a.far.Clear()
	}
	_, _ = fmt.Fprintf(a.err, format, args...)
}

// table prints rows with aligned columns. It makes the contents of cells safe to show.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		shown := make([]string, len(r))
		for i, cell := range r {
			shown[i] = readable.Text(cell)
		}
		if _, err := fmt.Fprintln(w, strings.Join(shown, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// fitted breaks the sentences in the last cells of rows into as many rows as they need on a
// terminal. Elsewhere, as in a pipe, each stays in its line.
func (a *app) fitted(rows [][]string) (out [][]string) {
	before := 0
	for col := 0; ; col++ {
		most := -1
		for _, row := range rows {
			if col < len(row)-1 {
				most = max(most, readable.Columns(readable.Text(row[col])))
			}
		}
		if most < 0 {
			break
		}
		before += most + 2
	}
	room := a.width() - before
	if room < 20 { // no terminal, or too narrow for sentences
		return rows
	}
	for _, row := range rows {
		last := len(row) - 1
		for i, line := range wrapped(row[last], room) {
			next := make([]string, last, last+1)
			if i == 0 {
				copy(next, row)
			}
			out = append(out, append(next, line))
		}
	}
	return out
}

// wrapped breaks a sentence into lines of so many characters, and never a word.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// textWidth is how many characters of a sentence go in one line of a table with labels, so that the
// line fits into 80 columns.
const textWidth = 68

// appendWrapped adds a sentence to rows of labels and values, in as many rows as it needs. It adds
// none if the sentence is empty. It never breaks a word.
func appendWrapped(rows [][]string, label, text string) [][]string {
	if strings.TrimSpace(text) == "" {
		return rows
	}
	for _, line := range wrapped(text, textWidth) {
		rows = append(rows, []string{label, line})
		label = ""
	}
	return rows
}

// appendBroken adds a name or a path to rows of labels and values. One that does not fit into a
// line is broken anywhere. It makes the text safe to show first, since that can make it longer.
func appendBroken(rows [][]string, label, text string) [][]string {
	text = readable.Text(text)
	for {
		line := text
		for readable.Columns(line) > textWidth {
			_, n := utf8.DecodeLastRuneInString(line)
			line = line[:len(line)-n]
		}
		rows = append(rows, []string{label, line})
		if text = text[len(line):]; text == "" {
			return rows
		}
		label = ""
	}
}

// confirm asks before something is destroyed. Without a terminal nobody can answer, and the
// operation is refused.
func (a *app) confirm(what string) error {
	in, ok := a.in.(*os.File)
	if !ok || !logging.Terminal(in) {
		return fmt.Errorf("%s: %w: nobody can be asked here; add --yes if that is meant",
			strings.TrimSuffix(what, "."), exit.ErrRefused)
	}
	a.tell("%s\nType yes to go on: ", readable.Text(what))
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		answers <- answer{line, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-a.ctx.Done(): // an interrupt at the question means no
		a.tell("\n")
	}
	if got.err != nil || strings.TrimSpace(got.line) != "yes" {
		return fmt.Errorf("%s: %w: not confirmed, nothing was changed",
			strings.TrimSuffix(what, "."), exit.ErrRefused)
	}
	return nil
}
