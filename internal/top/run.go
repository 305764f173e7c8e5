package top

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
)

// Run shows the screen on a terminal until somebody ends it, or ctx ends. It puts the terminal back
// as it was.
func Run(ctx context.Context, src Source, in io.Reader, out io.Writer) error {
	return run(ctx, src, in, out, time.Now)
}

func run(ctx context.Context, src Source, in io.Reader, out io.Writer,
	clock func() time.Time) error {
	colours := os.Getenv("NO_COLOR") == ""
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out)}
	if !colours {
		options = append(options, tea.WithColorProfile(colorprofile.ASCII))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // whoever is asked still need not answer
	_, err := tea.NewProgram(New(ctx, src, clock, colours), options...).Run()
	if errors.Is(err, tea.ErrInterrupted) || errors.Is(err, tea.ErrProgramKilled) &&
		ctx.Err() != nil {
		return nil
	}
	return err
}
