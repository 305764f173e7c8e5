package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// reportFD is where a detached server finds the pipe to its parent.
const reportFD = 3

// report is what a detached server tells its parent, once: how the start ended.
type report struct {
	Device string `json:"device,omitempty"`
	PID    int    `json:"pid,omitempty"`
	// Paused is how long requests waited at most, if the device was taken over
	// from a living server.
	Paused time.Duration `json:"paused,omitempty"`
	Error  string        `json:"error,omitempty"`
	Code   int           `json:"code,omitempty"`
}

// detach starts this program again as a server of its own session and returns
// once the device is live. If ctx ends before, the server goes on alone.
func detach(ctx context.Context, args []string) (report, error) {
	return launch(ctx, "/proc/self/exe", args)
}

// launch is detach for the program at a path, which may be another version.
func launch(ctx context.Context, program string, args []string) (rep report, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return rep, err
	}
	defer r.Close()
	cmd := exec.Command(program, args...)
	cmd.Args[0] = programName
	// Nothing of the caller's is kept: a pipe held open here would keep the
	// caller waiting for its end.
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return rep, fmt.Errorf("start the server: %w", err)
	}
	// A pipe's end can be given a deadline: now.
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })()
	text, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if ctx.Err() != nil {
		return rep, fmt.Errorf("%w; the new server, process %d, goes on by itself", context.Cause(ctx), cmd.Process.Pid)
	}
	if err != nil {
		return rep, fmt.Errorf("the server's report: %w", err)
	}
	if len(bytes.TrimSpace(text)) == 0 || json.Unmarshal(text, &rep) != nil {
		return rep, fmt.Errorf("the server died before the device was live (%v)", wait(cmd))
	}
	if rep.Error != "" {
		return rep, errors.Join(&exit.Error{Code: rep.Code, Text: rep.Error}, ignoreExit(cmd.Wait()))
	}
	return rep, cmd.Process.Release()
}

// withFlag adds a flag to a command line, before what is no flag in any case.
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

// ignoreExit drops what the report has said already.
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
	// A parent that is gone does not want to know.
	_ = json.NewEncoder(r.f).Encode(rep)
	_ = r.f.Close()
	r.f = nil
}

// modprobe loads a module.
func modprobe(ctx context.Context, module string) error {
	path, err := exec.LookPath("modprobe")
	if err != nil {
		path = "/sbin/modprobe"
	}
	out, err := exec.CommandContext(ctx, path, module).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", module, err, strings.TrimSpace(string(out)))
	}
	return nil
}
