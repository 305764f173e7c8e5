package alert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/program"
	"ublkremap/internal/readable"
)

// safePath is where programs that are run look for others.
const safePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const (
	// maxOutput bounds what is kept of a program's output, in bytes.
	maxOutput = 4 << 10
	// pipeTime is how long the output of a program that has ended is waited for: a process that it
	// left in the background may hold it.
	pipeTime = 2 * time.Second
)

// runProgram runs a program with a time limit, and returns its output. When the time is over, it is
// ended with all processes of its group.
func runProgram(ctx context.Context, limit time.Duration, args, env []string,
	stdin []byte) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		fmt.Errorf("%s: it was ended after %s", args[0], limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out := program.Keep(maxOutput)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), out, out
	cmd.Env = append([]string{safePath, "LC_ALL=C.UTF-8"}, env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = pipeTime
	err := cmd.Run()
	text := outputLine(out.String())
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return text, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		err = fmt.Errorf("%s: %w", args[0], whyNotRun(args[0], err))
	}
	if text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return text, err
}

// outputLine makes a printable line of a program's output.
func outputLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
	return readable.Text(strings.Join(lines, "; "))
}

// environment is what programs are told of a notice.
func (n *Notice) environment(host string) []string {
	k := n.kind()
	all := []string{
		"ALERT=" + n.Kind,
		"EVENT=" + n.Event,
		"SEVERITY=" + string(k.Severity),
		"SET=" + n.Set,
		"UUID=" + n.UUID,
		"DEVICE=" + n.Device,
		"BACKING=" + n.Backing,
		"DISKS=" + strings.Join(n.Disks, " "),
		"TEXT=" + n.Text,
		"REASON=" + n.Reason,
		"ACTION=" + n.Action,
		"LEVEL=" + strconv.FormatUint(n.Level, 10),
		"CRITICAL=" + strconv.Itoa(n.Critical),
		"TIME=" + n.Time.UTC().Format(time.RFC3339),
		"SINCE=" + n.Since.UTC().Format(time.RFC3339),
		"HOST=" + readable.Text(host),
		"RUNBOOK=" + k.Runbook(),
	}
	for i := range all {
		all[i] = "UBLK_REMAP_" + all[i]
	}
	return all
}
