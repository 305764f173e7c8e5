package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where things are in the guest. A program's directory is its variant's name: the
// program itself must have ublk in its name, by which its server is found.
const (
	guestBin  = "/usr/local/bin"
	guestJSON = "/root/results.json"
)

// vmexecArgs are the arguments of vmexec that run this program in a guest with everything it needs,
// and bring its results back to the file results.
func (o *options) vmexecArgs(self, results string) []string {
	args := []string{"-kernel", o.kernel, "-tools", "all", "-mem", fmt.Sprint(o.memory), "-smp",
		fmt.Sprint(o.smp), "-timeout", "24h",
		"-parallel", "-collect", guestJSON + ":" + results}
	inner := []string{"-kernel", kernelHost, "-json", guestJSON, "-only", o.only.String(), "-peers",
		o.peers.String(),
		"-rounds", fmt.Sprint(o.rounds), "-runtime", o.runtime.String(), "-size", fmt.Sprint(o.mib),
		"-queues", join(o.queues), "-depth", fmt.Sprint(o.depth),
		"-block", fmt.Sprint(o.block), "-seed", fmt.Sprint(o.seed), "-remaps", join(o.remaps),
		"-idle", o.idle.String(), "-heals", fmt.Sprint(o.heals),
		"-commit", o.commit, "-command", o.command, "-host", localCPU()}
	file := func(host, guest string) string {
		args = append(args, "-file", host+":"+guest)
		return guest
	}
	inner = append(inner, "-program", file(o.program, guestBin+"/ublk-remap"))
	if o.ublksrv != "" {
		inner = append(inner, "-peer", file(o.ublksrv, guestBin+"/ublk"))
		// Since 1.2 each target is a program of its own beside ublk.
		if loop := o.ublksrv + ".loop"; isFile(loop) {
			file(loop, guestBin+"/ublk.loop")
		}
	}
	for _, v := range o.variants {
		text := v.name + "="
		if v.program != "" {
			text += file(v.program, "/opt/"+v.name+"/ublk-remap") + ":"
		}
		inner = append(inner, "-variant", text+strings.Join(v.flags, " "))
	}
	args = append(args, strings.Fields(o.vmflags)...)
	return append(append(args, self), inner...)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

func join[T int | int64](list []T) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
}

// inGuest runs this program in a guest, and puts the results where a run on this machine would put
// them.
func inGuest(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, p := range append([]string{o.program, o.ublksrv, beside("vmexec")},
		programs(o.variants)...) {
		if p != "" && !isFile(p) {
			return fmt.Errorf("%w: %s: no such program", errUsage, p)
		}
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	if o.kernel == "uml" && o.cpu >= 0 {
		// A guest with one CPU is steady on one CPU.
		var set unix.CPUSet
		set.Set(o.cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin to CPU %d: %w", o.cpu, err)
		}
	}
	cmd := exec.CommandContext(ctx, beside("vmexec"),
		o.vmexecArgs(self, filepath.Join(o.out, resultsFile))...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	return nil
}

func programs(variants []variant) []string {
	var out []string
	for _, v := range variants {
		out = append(out, v.program)
	}
	return out
}
