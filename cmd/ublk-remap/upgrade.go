package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// endLimit is how long a server that was asked to leave may take to end: the sum of its own limits.
const endLimit = 2 * time.Minute

// upgraded is the JSON of upgrade.
type upgraded struct {
	Device   string        `json:"device"`
	Name     string        `json:"name"`
	UUID     string        `json:"uuid"`
	Old      serverVersion `json:"old"`
	New      serverVersion `json:"new"`
	PausedMS float64       `json:"paused_ms"`
	// Changed are the options that differ between the new server and the old one. Pending are those
	// that change only when the device is stopped and started.
	Changed []optionChange `json:"changed"`
	Pending []optionChange `json:"pending"`
}

// optionChange is an option of a running server, and its new value.
type optionChange struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

type serverVersion struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
}

func upgradeCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "upgrade DEV|NAME",
		Aliases: []string{"reload"},
		Short:   "Swap the server of a device for one of this version",
		Long: `Swap the server of a device for one that runs this program: run upgrade of the
version that is to serve from now on. Users of the device see a pause and
nothing else. The new one reads /etc/ublk-remap/NAME.toml anew; what the device
has from when it was made stays, and it is said so.

Everything that can fail is tried before the old server stops serving. If the
new one fails after that, the old one is started again. A server in the
foreground is refused: it is left to its supervisor.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			bar := a.progress("swapping the server of " + r.Device)
			u, err := a.upgrade(cmd.Context(), r, force)
			bar.End()
			if err != nil {
				return fmt.Errorf("%s: %w", r.Device, err)
			}
			if a.json {
				return a.printJSON(u)
			}
			_, err = fmt.Fprintf(a.out, "%s: %s (pid %d) -> %s (pid %d), I/O paused for %.0f "+
				"ms\n%s",
				u.Device, u.Old.Version, u.Old.PID, u.New.Version, u.New.PID, u.PausedMS,
				u.changes())
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "kill a server that is too old to leave its "+
		"device to another")
	a.jsonFlag(cmd)
	return cmd
}

// upgrade replaces a living server with a server of this program.
func (a *app) upgrade(ctx context.Context, r *control.Record, force bool) (*upgraded, error) {
	if !control.Owned(r.Name) {
		return nil, fmt.Errorf("%w: it is dead", control.ErrNotRunning)
	}
	// The old program stays open, so that it can be started again even if its file was replaced.
	old, err := os.Open(fmt.Sprintf("/proc/%d/exe", r.PID))
	if err != nil {
		return nil, fmt.Errorf("the program of process %d: %w", r.PID, err)
	}
	defer old.Close()
	args, options, err := serverArgs(r, reloads(r.PID))
	if err != nil {
		return nil, err
	}
	if !control.OwnedBy(r.Name, r.PID) {
		return nil, fmt.Errorf("%w: process %d is not its server; try again in a moment",
			control.ErrNotRunning, r.PID)
	}
	if !reloads(r.PID) {
		leaveManager()
	}
	token := rand.Text()
	next := append(args[:len(args):len(args)], fmt.Sprintf("--take-over=%d", r.PID),
		"--claim="+token)
	if force {
		next = append(next, "--kill")
	}
	live, err := launch(ctx, self, next, launchOptions{})
	if err != nil {
		return nil, a.bringBack(ctx, r, old, args, token, err)
	}
	a.tellMainPID(live.PID)
	u := &upgraded{
		Device: r.Device, Name: r.Name, UUID: r.UUID,
		Old:      serverVersion{Version: r.Version, PID: r.PID},
		New:      serverVersion{Version: programVersion(), PID: live.PID},
		PausedMS: float64(live.Paused.Microseconds()) / 1e3,
	}
	u.Changed, u.Pending = options.since(r)
	return u, nil
}

// changes says in one line what a reload of the configuration has changed. It is empty if nothing
// has.
func (u *upgraded) changes() string {
	var parts []string
	list := func(changes []optionChange) string {
		var all []string
		for _, c := range changes {
			all = append(all, fmt.Sprintf("%s %s -> %s", c.Name, cmp.Or(c.From, "unset"),
				cmp.Or(c.To, "unset")))
		}
		return strings.Join(all, ", ")
	}
	if len(u.Changed) > 0 {
		parts = append(parts, list(u.Changed))
	}
	if len(u.Pending) > 0 {
		parts = append(parts, fmt.Sprintf("%s: not before the device is stopped and started (%s)",
			list(u.Pending), shell.Command("stop", u.Name)))
	}
	if len(parts) == 0 {
		return ""
	}
	return readable.Text(u.Device+": "+strings.Join(parts, "; ")) + "\n"
}

// since compares options with those that the server of a record has. An option that the record does
// not name has its default. The record of an older version names no options, so nothing is known
// from it.
func (r *startRun) since(old *control.Record) (changed, pending []optionChange) {
	changed, pending = []optionChange{}, []optionChange{}
	if old.Options == nil {
		return changed, pending
	}
	for _, o := range r.all {
		if o.Path || o.NoFlag {
			continue
		}
		c := optionChange{Name: o.Name, From: o.DefaultText(), To: o.Value.String()}
		if text, ok := old.Options[o.Name]; ok {
			c.From = text
		}
		if !o.Set() {
			c.To = o.DefaultText()
		}
		switch {
		case c.From == c.To:
		case o.Change == config.Restart:
			pending = append(pending, c)
		default:
			changed = append(changed, c)
		}
	}
	return changed, pending
}

// serverArgs returns the command line for a successor of a record's server: the options that this
// server was started with, and the devices that it serves. It also returns the options that the
// successor will have, including those from the file of the set. It is an error now if the
// successor would refuse the file. It is also an error if a supervisor has the server, unless
// supervised is set.
func serverArgs(r *control.Record, supervised bool) ([]string, *startRun, error) {
	words, err := commandLine(r.PID)
	if err != nil {
		return nil, nil, err
	}
	args, flags, err := successorArgs(words, r, supervised)
	if err != nil {
		return nil, nil, err
	}
	run, err := optionsOf(flags, r)
	return args, run, err
}

// commandLine returns the arguments of a process.
func commandLine(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, fmt.Errorf("the command line of process %d: %w", pid, err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")[1:], nil
}

// optionsOf returns the options of a server that is started with these flags for the set of a
// record.
func optionsOf(flags *pflag.FlagSet, r *control.Record) (*startRun, error) {
	run := &startRun{startOptions: newStartOptions(nil), flags: flags}
	run.noConfig, _ = flags.GetBool("no-config")
	file, err := run.readFile(r.Name)
	said := newStartOptions(nil)
	if err == nil {
		err = checkFile(file, said)
	}
	if err == nil && file != nil {
		id := set.Identity{Name: r.Name}
		if id.UUID, err = uuid.Parse(r.UUID); err == nil {
			err = rightSet(file, said, id)
		}
	}
	if err == nil {
		err = file.Apply(run.all, nil)
	}
	flags.Visit(func(f *pflag.Flag) {
		if o := config.Find(run.all, f.Name); o != nil && !o.Path && err == nil {
			err = o.Value.Set(f.Value.String())
		}
	})
	return run, err
}

// successorArgs makes the successor's command line from the old server's. It refuses options that
// this version does not have.
func successorArgs(words []string, r *control.Record, supervised bool) ([]string, *pflag.FlagSet,
	error) {
	a := &app{stdio: stdio{in: strings.NewReader(""), out: io.Discard, err: io.Discard}}
	root := newRoot(a)
	cmd, rest, err := root.Find(words)
	if err == nil && cmd.Name() != "start" {
		err = fmt.Errorf("it does not start anything")
	}
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the command line of process %d (%s): %w",
			exit.ErrUnsupported, r.PID, strings.Join(words, " "), err)
	}
	if on, _ := cmd.Flags().GetBool("detached"); !on && !supervised {
		return nil, nil, fmt.Errorf("%w: its server, process %d, runs in the foreground under a "+
			"supervisor, which would miss it; "+
			"have that start the new version: kill the server with SIGKILL, and its next start "+
			"recovers the device", exit.ErrRefused, r.PID)
	}
	args := []string{"start", r.Backing}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "spare-device", "json", "detached", "foreground", "adopt", "take-over", "kill",
			"claim":
		default:
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	for _, spare := range r.Spares {
		args = append(args, "--spare-device="+spare)
	}
	return append(args, "--detached"), cmd.Flags(), nil
}

// bringBack makes sure that there is a server after an upgrade has failed. That is the old server,
// if it was not asked to leave yet, and otherwise a new process of its program. It returns why the
// upgrade failed, and which server serves now.
func (a *app) bringBack(ctx context.Context, r *control.Record, old *os.File, args []string,
	token string, why error) error {
	if ctx.Err() != nil {
		return why // the new server is not dead; only the wait for it has ended
	}
	for deadline := time.Now().Add(endLimit); control.Owned(r.Name); {
		if control.OwnedBy(r.Name, r.PID) {
			c := control.NewClient(r.Name)
			st, err := c.Status(ctx)
			if err == nil && st.State != control.StateRecovering {
				// The new server is dead, but its request may still be on its way. An old server
				// that knows no tokens has refused that request as well.
				if err = c.Stay(ctx, token); err == nil || errors.Is(err, control.ErrNotFound) {
					return withServer(why, "the device is still served by the old server, "+
						"%s (pid %d)", r.Version, r.PID)
				}
			}
		} else if now, err := control.ReadRecord(r.Name); err == nil && now.PID != r.PID &&
			control.OwnedBy(r.Name, now.PID) {
			return withServer(why, "the device is served by another server now, %s (pid %d)",
				now.Version, now.PID)
		}
		if time.Now().After(deadline) {
			return withServer(why,
				"the old server, process %d, ends when its I/O has ended; run then: %s", r.PID,
				shell.Command("start", r.Name))
		}
		select {
		case <-ctx.Done():
			return why
		case <-time.After(10 * time.Millisecond):
		}
	}
	// The path names the parent's descriptor, because the child may have other descriptors.
	live, err := launch(ctx, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), old.Fd()), args,
		launchOptions{})
	if err != nil {
		return errors.Join(why, fmt.Errorf("and the old version, %s, does not start again: "+
			"%w; I/O waits until somebody runs: %s", r.Version, err,
			shell.Command("start", r.Name)))
	}
	a.tellMainPID(live.PID)
	return withServer(why, "the old version was started again and serves the device, %s (pid %d)",
		r.Version, live.PID)
}

// withServer adds to the reason of a failed upgrade which server serves now.
func withServer(why error, format string, args ...any) error {
	return &exit.Error{Code: exit.Code(why), Text: exit.Line(why) + "; " + fmt.Sprintf(format,
		args...)}
}
