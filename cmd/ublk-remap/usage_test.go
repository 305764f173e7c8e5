package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// eachVerb calls f with the words of each verb that does something, hidden ones too.
func eachVerb(cmd *cobra.Command, f func(words []string, cmd *cobra.Command)) {
	if cmd.HasParent() && cmd.Runnable() && !cmd.HasSubCommands() {
		f(strings.Fields(cmd.CommandPath())[1:], cmd)
	}
	for _, c := range cmd.Commands() {
		eachVerb(c, f)
	}
}

// needed are arguments of which a verb has enough, made from its Use.
func needed(cmd *cobra.Command) (args []string) {
	use, _, _ := strings.Cut(cmd.Use, " --") // flags that are needed
	for _, name := range strings.Fields(use)[1:] {
		if !strings.HasPrefix(name, "[") {
			args = append(args, "x")
		}
	}
	return args
}

// refusedEmpty runs a verb with something empty, which it has to refuse in a line that names it.
func refusedEmpty(t *testing.T, name string, args ...string) {
	t.Helper()
	r := ublkRemap(t, args...)
	if args[0] == "check" { // a plugin has exit codes of its own, and its line is its output
		if r.code != int(pluginUnknown) || !strings.Contains(r.out, name) {
			t.Errorf("%q: exit code %d: %s%s", args, r.code, r.out, r.err)
		}
		return
	}
	if r.code != exit.Usage || r.out != "" || strings.Count(r.err, "\n") != 1 ||
		!strings.Contains(r.err, name) || !strings.Contains(r.err, `""`) ||
		!strings.Contains(r.err, "--help") {
		t.Errorf("%q: exit code %d: %s%s", args, r.code, r.out, r.err)
	}
}

// TestEmptyValues: no flag of any verb takes an empty value for none, and no verb an empty argument
// for anything.
func TestEmptyValues(t *testing.T) {
	useRuntimeDir(t)
	t.Chdir(t.TempDir()) // what is taken for a path is not one of this project
	flags := 0
	eachVerb(newRoot(&app{}), func(words []string, cmd *cobra.Command) {
		cmd.InheritedFlags() // joins those of all verbs to its own
		args := append(words, needed(cmd)...)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			flags++
			refusedEmpty(t, "--"+f.Name, append(args[:len(args):len(args)], "--"+f.Name+"=")...)
		})
		for i := len(words); i < len(args) && words[0] != "check"; i++ {
			some := append([]string{}, args...)
			some[i] = ""
			refusedEmpty(t, strings.Join(words, " "), some...)
		}
	})
	if flags < 150 {
		t.Errorf("%d flags were tried", flags)
	}
	for _, c := range []struct {
		flag string
		args []string
	}{
		// An item of a list, and a list of nothing.
		{"--state", []string{"files", "x", "--state", "lost,"}},
		{"--listen", []string{"monitor", "--listen", ":1", "--listen", ""}},
		{"--spare-device", []string{"metadata", "check", "x", "--spare-device", ""}},
		// These wrote to a disk.
		{"--from-dm-remap", []string{"create", "x", "--in-place", "--from-dm-remap", ""}},
		{"--badblocks", []string{"create", "x", "--badblocks", "", "--force", "--yes"}},
		{"BLOCK", []string{"remap", "add", "x", "1", ""}},
		{"DEV", []string{"status", ""}},
		{"it is empty", []string{"check", ""}},
	} {
		refusedEmpty(t, c.flag, c.args...)
	}
}
