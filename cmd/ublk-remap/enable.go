package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// enabledState is the JSON of enable and disable.
type enabledState struct {
	Name    string `json:"name"`
	Unit    string `json:"unit"`
	Enabled bool   `json:"enabled"`
	File    string `json:"file"`    // its configuration; empty: it has none
	Written bool   `json:"written"` // the file, by this call
	Device  string `json:"device"`  // empty: it has none
}

func enableCommand(a *app) *cobra.Command {
	r := startRun{startOptions: newStartOptions(a.logFlags)}
	var now bool
	cmd := &cobra.Command{
		Use:   "enable DISK|NAME",
		Short: "Have systemd start a set whenever its disk appears, at boot too",
		Long: `Have systemd start a set whenever its disk appears, at boot too: write
/etc/ublk-remap/NAME.toml, unless the set has that file, and enable the unit
ublk-remap@NAME.service. Options of start go into the file. If the unit cannot
be enabled nothing is left behind.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.flags = cmd.Flags()
			return a.enable(cmd.Context(), args[0], &r, now)
		},
	}
	addFlags(cmd.Flags(), r.own(a))
	cmd.Flags().BoolVar(&now, "now", false, "start it too")
	a.jsonFlag(cmd)
	return cmd
}

func disableCommand(a *app) *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use:   "disable NAME|DISK",
		Short: "Have systemd start a set no more by itself",
		Long: `Have systemd start a set no more by itself. Its file in /etc/ublk-remap stays,
and so does its device, unless --now stops that too.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.disable(cmd.Context(), args[0], now)
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "stop it too, unless it is in use")
	a.jsonFlag(cmd)
	return cmd
}

// wantsDir has a link for each enabled set. The rules of udev look at it, too. Tests use another
// directory.
var wantsDir = "/etc/systemd/system/ublk-remap.target.wants"

// unitOf returns the unit of a set. The error is exit.ErrUsage if no unit can have that name.
func unitOf(name string) (string, error) {
	if !instance(name) {
		return "", fmt.Errorf("%q: %w: no unit can be called so: a name of letters, digits, :, "+
			"_, . "+
			"and - can be enabled; have what starts your services run: %s", name, exit.ErrUsage,
			shell.Command("start", name))
	}
	return "ublk-remap@" + name + ".service", nil
}

// enabledNames returns the sets whose unit is enabled.
func enabledNames() (map[string]bool, error) {
	names := map[string]bool{}
	entries, err := os.ReadDir(wantsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "ublk-remap@")
		if name, suffix := strings.CutSuffix(name, ".service"); ok && suffix {
			names[name] = true
		}
	}
	return names, nil
}

// systemctl runs a verb of systemctl. Its error has the output of systemctl.
func systemctl(ctx context.Context, args ...string) error {
	path, err := exec.LookPath("systemctl")
	if err != nil {
		return fmt.Errorf("%w: there is no systemctl; have what starts your services run: "+
			"ublk-remap start NAME", exit.ErrUnsupported)
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	return outputError("systemctl "+strings.Join(args, " "), err, out)
}

// underSystemd reports whether systemd is this machine's init.
func underSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

func (a *app) enable(ctx context.Context, what string, r *startRun, now bool) error {
	if _, err := r.startOptions.config(); err != nil {
		return err
	}
	b, err := r.findDisk(ctx, what)
	if err != nil {
		return err
	}
	if b.Superblock.DeviceIndex != 0 {
		return fmt.Errorf("%s: %w: it is a spare device of %q; name the set or its disk", what,
			exit.ErrUsage, b.Superblock.Name)
	}
	name := b.Superblock.Name
	unit, err := unitOf(name)
	if err != nil {
		return err
	}
	state := enabledState{Name: name, Unit: unit, Enabled: true}
	undo, err := a.configure(ctx, b, r, &state)
	if err != nil {
		return err
	}
	if err := systemctl(ctx, "--quiet", "enable", unit); err != nil {
		return errors.Join(fmt.Errorf("%s: %w; nothing was changed", name, err), undo())
	}
	if now {
		if err := startUnit(ctx, name, unit); err != nil {
			return fmt.Errorf("%s is enabled, but: %w", name, err)
		}
	}
	if rec, err := control.ReadRecord(name); err == nil && host.Active(name) {
		state.Device = rec.Device
	}
	return a.printEnabled(&state)
}

// configure makes sure that a set has a file that can be used. It returns a function that undoes
// its changes.
func (a *app) configure(ctx context.Context, b *host.Backing, r *startRun,
	state *enabledState) (undo func() error, err error) {
	nothing := func() error { return nil }
	name := b.Superblock.Name
	if state.File, err = config.Path(name); err != nil {
		return nil, err
	}
	given := r.given(a)
	if _, statErr := os.Stat(state.File); statErr == nil {
		if len(given) > 0 {
			return nil, fmt.Errorf("%s: %w: it is there already, and what stands in it stays: "+
				"write "+
				"%s into it and enable the set without --%s", state.File, exit.ErrRefused,
				strings.TrimSuffix(config.Render(given[:1]), "\n"), given[0].Key)
		}
		file, err := config.ReadFile(state.File)
		said := newStartOptions(nil)
		if err == nil {
			err = checkFile(file, said)
		}
		if err == nil {
			err = rightSet(file, said, setOf(b))
		}
		return nothing, err
	}
	lines := []config.Line{
		{Comment: "How the set " + name + " is started; written by: ublk-remap enable"},
		{Comment: "All keys are shown by: ublk-remap config sample"},
		{Key: "uuid", Kind: config.Text, Texts: []string{b.Superblock.UUID.String()}},
	}
	if st, err := os.Stat(b.Path); err == nil && st.Mode().IsRegular() {
		// A regular file cannot be found by the name of its set.
		lines = append(lines, config.Line{Key: "backing", Kind: config.Text,
			Texts: []string{b.Path}})
	}
	made, err := config.Write(name, config.Render(append(lines, given...)))
	if err != nil {
		return nil, fmt.Errorf("%w; nothing was changed", err)
	}
	state.Written = true
	return func() error {
		err := config.Remove(name)
		if made != "" {
			err = errors.Join(err, os.Remove(made))
		}
		return err
	}, nil
}

// given returns the options that flags have set, as lines of a file.
func (r *startRun) given(a *app) (lines []config.Line) {
	for _, o := range r.own(a) {
		if o.NoFlag || !r.flags.Changed(o.Name) {
			continue
		}
		texts := []string{o.Value.String()}
		if o.Value.Kind() == config.List {
			texts = nil
			for _, path := range r.spares {
				if abs, err := filepath.Abs(path); err == nil {
					path = abs
				}
				texts = append(texts, path)
			}
		}
		lines = append(lines, config.Line{Key: o.Name, Kind: o.Value.Kind(), Texts: texts})
	}
	return lines
}

// startUnit starts a unit and returns when its device is live.
func startUnit(ctx context.Context, name, unit string) error {
	if !underSystemd() {
		return fmt.Errorf("%w: systemd does not run here; it is started when it does",
			exit.ErrUnsupported)
	}
	if control.Owned(name) && systemctl(ctx, "--quiet", "is-active", unit) != nil {
		return fmt.Errorf("%w, and not by its unit; to change that: %s, and then: systemctl "+
			"start %s",
			host.ErrServed, shell.Command("stop", name), unit)
	}
	err := systemctl(ctx, "start", unit)
	if err == nil {
		return nil
	}
	code := exit.Failed
	out, showErr := exec.CommandContext(ctx, "systemctl", "show", "-P", "ExecMainStatus",
		unit).Output()
	if showErr == nil {
		var n int
		_, err := fmt.Sscan(string(out), &n)
		switch {
		case err != nil:
		case n == exit.Later:
			code = exit.Refused
		case n > 0 && n <= exit.Damaged:
			code = n
		}
	}
	return &exit.Error{Code: code, Text: fmt.Sprintf("its unit does not start; why is said by: "+
		"journalctl -u %s", unit)}
}

func (a *app) disable(ctx context.Context, what string, now bool) error {
	name := what
	enabled, err := enabledNames()
	if err != nil {
		return err
	}
	if strings.Contains(what, "/") {
		b, err := host.BackingAt(ctx, what)
		if err != nil {
			return err
		}
		name = b.Superblock.Name
	}
	unit, err := unitOf(name)
	if err != nil {
		return err
	}
	state := enabledState{Name: name, Unit: unit}
	if path, err := config.Path(name); err == nil {
		if _, err := os.Stat(path); err == nil {
			state.File = path
		}
	}
	if !enabled[name] && !host.Active(name) && state.File == "" {
		return fmt.Errorf("%s: %w: no set of this name is enabled, configured or served here; "+
			"see: "+
			"ublk-remap scan", name, exit.ErrNotFound)
	}
	if enabled[name] {
		if err := systemctl(ctx, "--quiet", "disable", unit); err != nil {
			return fmt.Errorf("%s: %w; nothing was changed", name, err)
		}
	}
	if now && host.Active(name) {
		if _, err := a.host().Stop(ctx, name, false); err != nil {
			return fmt.Errorf("%s is disabled, but not stopped: %w", name, err)
		}
	}
	if rec, err := control.ReadRecord(name); err == nil && host.Active(name) {
		state.Device = rec.Device
	}
	return a.printEnabled(&state)
}

func (a *app) printEnabled(state *enabledState) error {
	if a.json {
		return a.printJSON(state)
	}
	text := state.Name + ": "
	switch {
	case state.Enabled && state.Written:
		text += "enabled, by " + state.File + " and " + state.Unit
	case state.Enabled:
		text += "enabled, with " + state.File + " as it stands"
	case state.File != "":
		text += "disabled; " + state.File + " stays, for: ublk-remap start " + state.Name
	default:
		text += "disabled"
	}
	switch {
	case state.Device != "" && state.Enabled:
		text += "; it is " + state.Device
	case state.Device != "":
		text += "; " + state.Device + " stays until: " + shell.Command("stop", state.Name)
	}
	_, err := fmt.Fprintln(a.out, readable.Text(text))
	return err
}
