package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/attention"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// pluginState is a result in the terms of Nagios: its number is the exit code of a plugin.
// https://nagios-plugins.org/doc/guidelines.html, "Plugin return codes".
type pluginState int

const (
	pluginOK pluginState = iota
	pluginWarning
	pluginCritical
	pluginUnknown
)

func (s pluginState) String() string {
	return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[s]
}

// worse returns the worse one of two. Something that is known to be bad is worse than not to know.
func (s pluginState) worse(t pluginState) pluginState {
	rank := [...]int{pluginOK: 0, pluginWarning: 2, pluginCritical: 3, pluginUnknown: 1}
	if rank[t] > rank[s] {
		return t
	}
	return s
}

// checkLimits say how much of the spare region must be free, in percent.
type checkLimits struct{ warning, critical uint8 }

func checkCommand(a *app) *cobra.Command {
	limits := checkLimits{warning: 25, critical: 5}
	cmd := &cobra.Command{
		Use:   "check [DEV|NAME]",
		Short: "A line about one device or all, for Nagios, Icinga and their kin",
		Long: `Print one line about a device, or about all of this host, with performance data,
as a plugin of Nagios does.

The exit code is that of a plugin, also for errors: 0 OK, 1 WARNING, 2 CRITICAL,
3 UNKNOWN.

  CRITICAL  the device is failed, tripped or unreachable, a disk of it is gone,
            its spare region is nearly used up, or a critical alert is there
  WARNING   it is degraded, recovering or stopping, blocks are pending or lost,
            requests wait for the disk, much of the spare region is used, or
            another alert of the monitor is there
  UNKNOWN   there is no such device, or nobody may look`,
		Args: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			state, text := a.check(cmd, args, limits)
			if _, err := fmt.Fprintf(a.out, "UBLK-REMAP %s - %s\n", state, text); err != nil {
				state = pluginUnknown
			}
			if state == pluginOK {
				return nil
			}
			return fmt.Errorf("%w%w", errSilent, &exit.Error{Code: int(state)})
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		err = flagError(cmd, err)
		_, _ = fmt.Fprintf(a.out, "UBLK-REMAP %s - %s\n", pluginUnknown, readable.Text(err.Error()))
		return fmt.Errorf("%w%w", errSilent, &exit.Error{Code: int(pluginUnknown)})
	})
	f := cmd.Flags()
	f.Uint8Var(&limits.warning, "spare-warning", limits.warning, "WARNING if no more than "+
		"`PERCENT` of the spare region is free")
	f.Uint8Var(&limits.critical, "spare-critical", limits.critical, "CRITICAL if no more than "+
		"`PERCENT` of the spare region is free")
	return cmd
}

// check returns the state and the text of the line.
func (a *app) check(cmd *cobra.Command, args []string, limits checkLimits) (pluginState, string) {
	var all []*control.Status
	var err error
	switch {
	case len(args) > 1:
		return pluginUnknown,
			readable.Text(fmt.Sprintf("%q is too much: want one device, or none for all",
				args[1]))
	case len(args) == 1 && args[0] == "":
		return pluginUnknown, "\"\": it is empty, as a variable gives it that is not set; want " +
			"one device, or none for all"
	case limits.critical > limits.warning || limits.warning > 100:
		return pluginUnknown, "--spare-critical is to be no more than --spare-warning, and that " +
			"no more than 100"
	case len(args) == 1:
		var st *control.Status
		st, err = a.host().StatusOf(cmd.Context(), args[0])
		all = []*control.Status{st}
	default:
		all, err = a.host().Status(cmd.Context())
	}
	if err != nil {
		return pluginUnknown, exit.Line(err)
	}
	control.AddAlerts(cmd.Context(), all...)
	return checkAll(all, limits)
}

// checkAll puts the devices into one line, the worst first.
func checkAll(all []*control.Status, limits checkLimits) (pluginState, string) {
	if len(all) == 0 {
		return pluginOK, "no device runs here"
	}
	state := pluginOK
	var texts [pluginUnknown + 1][]string
	var data []string
	for _, st := range all {
		s, text := checkOne(st, limits)
		state = state.worse(s)
		texts[s] = append(texts[s], readable.Text(st.Name)+": "+readable.Text(text))
		data = append(data, performance(st, limits)...)
	}
	var parts []string
	for _, s := range []pluginState{pluginCritical, pluginWarning, pluginUnknown, pluginOK} {
		parts = append(parts, texts[s]...)
	}
	// The bar begins the performance data.
	text := strings.ReplaceAll(strings.Join(parts, "; "), "|", "/")
	if len(data) == 0 {
		return state, text
	}
	return state, text + " | " + strings.Join(data, " ")
}

// checkOne says how a device is doing.
func checkOne(st *control.Status, limits checkLimits) (pluginState, string) {
	state, why := pluginOK, []string{}
	add := func(s pluginState, format string, args ...any) {
		state = state.worse(s)
		why = append(why, fmt.Sprintf(format, args...))
	}
	switch st.State {
	case control.StateLive:
	case control.StateDegraded, control.StateRecovering, control.StateStopping:
		add(pluginWarning, "%s: %s", st.State, st.Reason)
	default:
		add(pluginCritical, "%s: %s", st.State, st.Reason)
	}
	for _, p := range attention.Of(st) {
		level := pluginWarning
		if p.Level == attention.Bad {
			level = pluginCritical
		}
		// The limits of this command, and the states above, tell of the others.
		if p.Rank == attention.RankMissing || p.Rank == attention.RankCritical ||
			p.Rank == attention.RankWarning || p.Rank == attention.RankWay ||
			p.Rank == attention.RankSlow ||
			p.Rank == attention.RankDegraded && st.State == control.StateLive {
			add(level, "%s", p.Says)
		}
	}
	if st.WaitingSince != nil && st.State == control.StateLive {
		add(pluginWarning, "requests wait for the disk")
	}
	if st.Lost > 0 {
		add(pluginWarning, "%s blocks are lost", readable.Number(st.Lost))
	}
	if st.Pending > 0 {
		add(pluginWarning, "%s blocks do not read", readable.Number(st.Pending))
	}
	if st.Spare.Total > 0 {
		free := st.Spare.Free * 100
		switch {
		case free <= uint64(limits.critical)*st.Spare.Total:
			add(pluginCritical, "%d %% of the spare region are free", free/st.Spare.Total)
		case free <= uint64(limits.warning)*st.Spare.Total:
			add(pluginWarning, "%d %% of the spare region are free", free/st.Spare.Total)
		}
	}
	if state == pluginOK {
		return state, fmt.Sprintf("live, %s units remapped", readable.Number(st.Remaps))
	}
	return state, strings.Join(why, ", ")
}

// performance returns the performance data of a device: 'label'=value;warning;critical;min;max.
func performance(st *control.Status, limits checkLimits) []string {
	label := strings.NewReplacer("'", "_", "=", "_", " ", "_", "|",
		"_").Replace(readable.Text(st.Name))
	one := func(what, value string) string { return fmt.Sprintf("'%s %s'=%s", label, what, value) }
	total := st.Spare.Total
	if !st.Answered() {
		return nil // nothing is known, and zeroes would say that all is well again
	}
	return []string{
		one("remapped", fmt.Sprintf("%d;;;0;%d", st.Remaps, total)),
		one("pending", fmt.Sprintf("%d;0;;0", st.Pending)),
		one("lost", fmt.Sprintf("%d;0;;0", st.Lost)),
		// A range that is fine from a number on ends with a colon.
		one("spare free", fmt.Sprintf("%d;%d:;%d:;0;%d", st.Spare.Free,
			total*uint64(limits.warning)/100, total*uint64(limits.critical)/100, total)),
		one("errors", fmt.Sprintf("%dc", st.Errors.Read+st.Errors.Write+st.Errors.Flush)),
	}
}
