package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// patience is the time limit of a command. Guests are slow.
const patience = 2 * time.Minute

// stage prints what happens, counts checks, runs commands and undoes them.
type stage struct {
	ctx            context.Context
	out            io.Writer
	steps          int
	passed, failed int
	undoing        []func(ctx context.Context) error
}

// step begins the next part.
func (s *stage) step(format string, args ...any) {
	s.steps++
	_, _ = fmt.Fprintf(s.out, "\n%d. %s\n", s.steps, fmt.Sprintf(format, args...))
}

func (s *stage) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, "   %s\n", fmt.Sprintf(format, args...))
}

// check counts a statement and prints whether it is true.
func (s *stage) check(ok bool, format string, args ...any) {
	mark := "[ok]    "
	if ok {
		s.passed++
	} else {
		s.failed++
		mark = "[FAILED]"
	}
	_, _ = fmt.Fprintf(s.out, "   %s %s\n", mark, fmt.Sprintf(format, args...))
}

// later registers f to undo something at the end: last in, first out.
func (s *stage) later(f func(ctx context.Context) error) { s.undoing = append(s.undoing, f) }

// undo runs what later registered. If something cannot be undone that counts as a failed check.
func (s *stage) undo() {
	// An interrupt ends the demonstration, but not the cleaning up.
	ctx := context.WithoutCancel(s.ctx)
	for i := len(s.undoing) - 1; i >= 0; i-- {
		if err := s.undoing[i](ctx); err != nil {
			s.check(false, "clearing up: %v", err)
		}
	}
	s.undoing = nil
}

// run prints a command, runs it and prints its output. It returns what went to stdout.
func (s *stage) run(name string, args ...string) (string, error) {
	s.say("$ %s", strings.Join(append([]string{filepath.Base(name)}, args...), " "))
	stdout, stderr, err := command(s.ctx, name, args...)
	for line := range strings.Lines(stdout + stderr) {
		s.say("  %s", strings.TrimRight(line, "\n"))
	}
	return stdout, err
}

// command runs a program without printing. The error contains what the program wrote to stderr.
func command(ctx context.Context, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	// A server that kept its starter's output open would block every $(ublk-remap start ...).
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%s %s: not done after %v", filepath.Base(name), strings.Join(args, " "),
			patience)
	case errors.Is(err, exec.ErrWaitDelay):
		err = fmt.Errorf("%s %s: it ended, but something it left behind holds its output open",
			filepath.Base(name), strings.Join(args, " "))
	default:
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err,
			strings.TrimSpace(errs.String()))
	}
	return out.String(), errs.String(), err
}

// query runs a command without printing and decodes the JSON that it prints.
func (s *stage) query(to any, name string, args ...string) error {
	stdout, _, err := command(s.ctx, name, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(stdout), to); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}
