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

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// reportFD is where a detached server finds the pipe to its parent.
const reportFD = 3

// report is what a detached server tells its parent, once: how the start ended.
type report struct {
	Device string `json:"device,omitempty"`
	Error  string `json:"error,omitempty"`
	Code   int    `json:"code,omitempty"`
}

// detach starts this program again as a server of its own session and returns
// the device's path once it is live. If ctx ends before, so does the server, in
// order.
func detach(ctx context.Context) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", withFlag(os.Args[1:], "--detached")...)
	// Nothing of the caller's is kept: a pipe held open here would keep the
	// caller waiting for its end.
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", fmt.Errorf("start the server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) }) // it has ended if that fails
	text, err := io.ReadAll(io.LimitReader(r, 1<<16))
	stop()
	if err != nil {
		return "", fmt.Errorf("the server's report: %w", err)
	}
	var rep report
	if len(bytes.TrimSpace(text)) == 0 || json.Unmarshal(text, &rep) != nil {
		return "", fmt.Errorf("the server died before the device was live (%v)", wait(cmd))
	}
	if rep.Error != "" {
		return "", errors.Join(&exit.Error{Code: rep.Code, Text: rep.Error}, ignoreExit(cmd.Wait()))
	}
	return rep.Device, cmd.Process.Release()
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

func (r *reporter) ready(device string) { r.send(report{Device: device}) }

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
