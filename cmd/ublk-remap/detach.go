package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// reportFD is the descriptor of the pipe from a detached server to its parent.
const reportFD = 3

// report is what a detached server tells its parent. It tells any number of times what it waits
// for. At the end it tells once how the start ended.
type report struct {
	// Waiting is what the start waits for. The rest is empty then.
	Waiting string `json:"waiting,omitempty"`
	Device  string `json:"device,omitempty"`
	PID     int    `json:"pid,omitempty"`
	// Paused is how long requests waited at most, if a living server gave the device up to this
	// server.
	Paused time.Duration `json:"paused,omitempty"`
	Error  string        `json:"error,omitempty"`
	Code   int           `json:"code,omitempty"`
}

// self is the path of this program. It stays valid after the file was replaced or removed.
const self = "/proc/self/exe"

const (
	// maxReport is the longest line of a report, in bytes.
	maxReport = 1 << 16
	// endWait is how long a server that must end with its caller may take before it is killed.
	endWait = 5 * time.Second
)

// launchOptions say how a server is started.
type launchOptions struct {
	// waiting is called with what the start waits for.
	waiting func(what string)
	// withCaller ends the start when the caller's context ends. Otherwise the start continues
	// alone.
	withCaller bool
	// env is the server's environment. nil means the caller's environment.
	env []string
}

// launch starts a program, this one or another version of it, as a server in a session of its own.
// It returns once the device is live.
func launch(ctx context.Context, program string, args []string, o launchOptions) (rep report,
	err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return rep, err
	}
	defer r.Close()
	cmd := exec.Command(program, args...)
	cmd.Args[0] = programName
	// The server gets no descriptor of the caller: a pipe that stays open in the server would make
	// the caller wait for its end.
	cmd.Env, cmd.ExtraFiles = o.env, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return rep, fmt.Errorf("start the server: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		wait := time.Duration(0)
		if o.withCaller {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			wait = endWait
		}
		// The end of a pipe can have a deadline.
		_ = r.SetReadDeadline(time.Now().Add(wait))
	})()
	rep, err = readReport(r, o.waiting)
	switch {
	case ctx.Err() != nil && o.withCaller:
		return rep, endedEarly(ctx, cmd, rep, err)
	case ctx.Err() != nil:
		return rep, fmt.Errorf("%w; the new server, process %d, goes on by itself",
			context.Cause(ctx), cmd.Process.Pid)
	case errors.Is(err, errNoReport):
		return rep, fmt.Errorf("the server died before the device was live (%v); what it said "+
			"last is in its log in %s, and what ended it may be in: journalctl -k", wait(cmd),
			control.Dir())
	case err != nil:
		return rep, fmt.Errorf("the server's report: %w", err)
	case rep.Error != "":
		return rep, errors.Join(&exit.Error{Code: rep.Code, Text: rep.Error},
			ignoreExit(cmd.Wait()))
	}
	return rep, cmd.Process.Release()
}

// errNoReport: a server ended without a report.
var errNoReport = errors.New("there is none")

// readReport reads the reports of a server, and returns the last one.
func readReport(r io.Reader, waiting func(string)) (report, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxReport)
	for lines.Scan() {
		var rep report
		if json.Unmarshal(lines.Bytes(), &rep) != nil {
			return rep, errNoReport
		}
		if rep.Waiting == "" {
			return rep, nil
		}
		if waiting != nil {
			waiting(rep.Waiting)
		}
	}
	return report{}, cmp.Or(lines.Err(), errNoReport)
}

// endedEarly says how a start ended that its caller has interrupted.
func endedEarly(ctx context.Context, cmd *exec.Cmd, rep report, err error) error {
	cause := context.Cause(ctx)
	switch {
	case err == nil && rep.Error == "":
		return fmt.Errorf("%w, when %s was live already; it is stopped if nobody uses it, see: "+
			"ublk-remap list", cause, rep.Device)
	case errors.Is(err, os.ErrDeadlineExceeded):
		// A read of a disk that hangs cannot be interrupted. No data is lost if a server dies. That
		// is particularly true of a server that was not live yet.
		_ = cmd.Process.Kill()
		return fmt.Errorf("%w; nothing was started; process %d was killed and is gone when its "+
			"disk has answered it", cause, cmd.Process.Pid)
	}
	_ = cmd.Wait()
	return fmt.Errorf("%w; nothing was started", cause)
}

// withFlag adds a flag to a command line, before the arguments that follow --.
func withFlag(args []string, flag string) []string {
	at := slices.Index(args, "--")
	if at < 0 {
		at = len(args)
	}
	return slices.Insert(slices.Clone(args), at, flag)
}

func wait(cmd *exec.Cmd) string {
	if err := cmd.Wait(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

// ignoreExit drops an error that the report contains already.
func ignoreExit(err error) error {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return nil
	}
	return err
}

// reporter is the server's end of the pipe.
type reporter struct{ f *os.File }

func newReport() *reporter {
	syscall.CloseOnExec(reportFD)
	return &reporter{f: os.NewFile(reportFD, "report")}
}

func (r *reporter) failed(err error) {
	if err != nil {
		r.send(report{Error: exit.Line(err), Code: exit.Code(err)})
	}
}

func (r *reporter) send(rep report) {
	if r.f == nil {
		return
	}
	// The parent may have ended.
	_ = json.NewEncoder(r.f).Encode(rep)
	_ = r.f.Close()
	r.f = nil
}

func (r *reporter) waiting(what string) {
	if r.f != nil {
		_ = json.NewEncoder(r.f).Encode(report{Waiting: what})
	}
}
