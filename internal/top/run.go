package top

import (
	"cmp"
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
)

// Run shows the screen on a terminal until somebody ends it, or ctx ends. It puts the terminal back
// as it was, also after SIGHUP, SIGQUIT or a panic, and while Ctrl-Z stops the program.
func Run(ctx context.Context, src Source, in io.Reader, out io.Writer) error {
	return run(ctx, src, in, out, time.Now)
}

func run(ctx context.Context, src Source, in io.Reader, out io.Writer,
	clock func() time.Time) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP,
		syscall.SIGQUIT)
	defer cancel() // whoever is asked still need not answer
	can := terminalOf(out, os.Environ())
	p := tea.NewProgram(New(ctx, src, clock, can), tea.WithoutSignalHandler(), tea.WithInput(in),
		tea.WithOutput(out), tea.WithColorProfile(can.Colours))
	// A program that is interrupted, or whose context ends, closes its input while it is still
	// being read. One that quits waits for that.
	defer context.AfterFunc(ctx, p.Quit)()
	_, err := p.Run()
	return err
}

// Terminal is what a terminal can show.
type Terminal struct {
	Colours colorprofile.Profile
	// ASCII: it has no other characters.
	ASCII bool
}

// terminalOf finds out what a terminal can show. The locale says which characters it has, see
// locale(7). The console of Linux is told apart: its fonts have few of the characters that this
// package draws with.
func terminalOf(out io.Writer, env []string) Terminal {
	value := func(name string) string {
		for _, e := range env {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	charset := strings.ToLower(cmp.Or(value("LC_ALL"), value("LC_CTYPE"), value("LANG")))
	t := Terminal{Colours: colorprofile.Detect(out, env), ASCII: value("TERM") == "linux" ||
		!strings.Contains(charset, "utf-8") && !strings.Contains(charset, "utf8")}
	if value("NO_COLOR") != "" { // whatever its value is
		t.Colours = min(t.Colours, colorprofile.ASCII)
	}
	return t
}
