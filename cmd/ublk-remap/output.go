package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
)

// printJSON prints a value as JSON, one document.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// tell writes to standard error. There is nobody to tell if that fails.
func (a *app) tell(format string, args ...any) { _, _ = fmt.Fprintf(a.err, format, args...) }

// clean is a text from outside, such as a name or a path, as it can be shown:
// on one line, and without anything that a terminal would take for a command.
func clean(s string) string { return exit.Printable(s) }

// table prints rows with aligned columns. What cells contain is made fit to be
// shown.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		shown := make([]string, len(r))
		for i, cell := range r {
			shown[i] = clean(cell)
		}
		if _, err := fmt.Fprintln(w, strings.Join(shown, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// sizeText prints a size for people.
func sizeText(n int64) string { return humanize.IBytes(uint64(n)) }

// numText prints a number for people.
func numText(n uint64) string { return humanize.Comma(int64(n)) }

// confirm asks before something is destroyed. Without a terminal nobody can
// answer: then the operation is refused.
func (a *app) confirm(what string) error {
	in, ok := a.in.(*os.File)
	if !ok || !logging.Terminal(in) {
		return fmt.Errorf("%s: %w: nobody can be asked here; add --yes if that is meant", what, exit.ErrRefused)
	}
	a.tell("%s\nType yes to go on: ", clean(what))
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
	case <-a.ctx.Done(): // interrupted at the question: that is no
		a.tell("\n")
	}
	if got.err != nil || strings.TrimSpace(got.line) != "yes" {
		return fmt.Errorf("%s: %w: not confirmed, nothing was changed", what, exit.ErrRefused)
	}
	return nil
}
