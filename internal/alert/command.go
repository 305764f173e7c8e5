package alert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"ublkremap/internal/readable"
)

// commandTime is how long a command may take.
const commandTime = time.Minute

// Command is a Way by a program of the user's: it has the text on its standard input, and what the
// message is first of all about in its environment.
type Command struct{ Args []string }

// Name implements Way.
func (*Command) Name() string { return "command" }

// Check implements Checker.
func (w *Command) Check() error {
	err := trustedProgram(w.Args[0])
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; install it, or name another one in monitor.conf (command)", err)
	}
	return err
}

// Send implements Way.
func (w *Command) Send(ctx context.Context, m *Message) error {
	if err := w.Check(); err != nil {
		return err
	}
	env := append(m.Worst().environment(m.Host),
		"UBLK_REMAP_SUBJECT="+readable.Text(m.Subject),
		"UBLK_REMAP_COUNT="+strconv.Itoa(len(m.Notices)))
	_, err := runProgram(ctx, commandTime, w.Args, env, []byte(m.Text))
	return err
}
