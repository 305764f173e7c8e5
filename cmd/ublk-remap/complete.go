package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/internal/config"
	"ublkremap/internal/control"
)

// flagWords are the values of flags that are one of a few words, by verb and flag. Those of which
// the type says so, such as auto|on|off, need no entry.
var flagWords = map[string][]string{
	"export --format": {"badblocks", "ddrescue", "json", "csv", "dmsetup"},
	"import --format": {"badblocks", "ddrescue", "smart", "nvme", "dm-remap"},
	"import --of":     {"device", "disk"},
	"files --state":   {"pending", "lost", "mapped", "slow", "home"},
}

// addCompletions tells the completions of shells what fits at each place of all verbs below cmd: a
// name, a word or a file. Arguments are what Use calls them. Only a command that completes needs
// that: a server would keep the memory that it takes.
func addCompletions(a *app, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		addCompletions(a, c)
	}
	if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
		cmd.ValidArgsFunction = a.completeArguments
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		words := flagWords[cmd.Name()+" --"+f.Name]
		switch kind := f.Value.Type(); {
		case strings.Contains(kind, "|"):
			words = slices.DeleteFunc(strings.Split(kind, "|"), func(w string) bool {
				return w != strings.ToLower(w) // a number or a time stands there
			})
		case len(words) > 0, slices.Contains([]string{"int", "uint8", "N", "T", "SIZE", "duration",
			"seconds", "TYPE"}, kind):
		default: // a file, as a shell completes it by itself
			return
		}
		// It fails for a flag that is not there, and for one that has a completion already.
		_ = cmd.RegisterFlagCompletionFunc(f.Name,
			cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	})
}

// completeArguments completes the next argument of a verb.
func (a *app) completeArguments(cmd *cobra.Command, args []string,
	begun string) ([]string, cobra.ShellCompDirective) {
	places := strings.Fields(cmd.Use)[1:]
	if i := slices.IndexFunc(places, func(p string) bool { return p[0] == '-' }); i >= 0 {
		places = places[:i] // flags that are told of
	}
	if len(places) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	last := places[len(places)-1]
	if len(args) >= len(places) && !strings.HasSuffix(strings.Trim(last, "[]"), "…") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	place := strings.Split(strings.Trim(places[min(len(args), len(places)-1)], "[]…"), "|")
	is := func(what ...string) bool {
		return slices.ContainsFunc(what, func(w string) bool { return slices.Contains(place, w) })
	}
	files := cobra.ShellCompDirectiveNoFileComp
	if is("BACKING", "DISK", "FILE", "DIRECTORY", "DEVICE") || is("DEV") && strings.HasPrefix(
		begun, "/") {
		files = cobra.ShellCompDirectiveDefault
	}
	// A new set is made of a disk, not of a name.
	if strings.ContainsRune(begun, '/') || !is("DEV", "NAME", "BACKING", "DISK") ||
		cmd.Name() == "create" {
		return nil, files
	}
	return a.names(begun, !is("DEV")), files
}

// plainName is a name that means itself to every shell. The names on disks are chosen by others.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.+@:][A-Za-z0-9_.+@:-]*$`)

// names returns the names of the sets that run here, or also of those that have a configuration,
// which begin so. The device of one that runs is said beside it. What cannot be found out is left
// out: somebody who types is told nothing.
func (a *app) names(begun string, stopped bool) []string {
	var all []string
	add := func(name, says string) {
		known := func(s string) bool { return s == name || strings.HasPrefix(s, name+"\t") }
		if strings.HasPrefix(name, begun) && plainName.MatchString(name) &&
			!slices.ContainsFunc(all, known) {
			all = append(all, name+says)
		}
	}
	records, _ := a.host().Running()
	slices.SortFunc(records, func(x, y *control.Record) int { return x.ID - y.ID })
	for _, r := range records {
		add(r.Name, "\t"+r.Device)
	}
	if stopped {
		configured, _ := config.Names()
		for _, name := range configured {
			add(name, "")
		}
	}
	return all
}
