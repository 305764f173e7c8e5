package manual

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// flagText is a flag as both the help and the manual page show it.
type flagText struct {
	short string // -h, or empty
	long  string // --help
	value string // what its value is called; empty for a switch
	means string // with the default, where it has one
}

// flagTexts returns the flags that are to be seen, by name.
func flagTexts(flags *pflag.FlagSet) []flagText {
	var all []flagText
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, means := pflag.UnquoteUsage(f)
		t := flagText{long: "--" + f.Name, value: value, means: means}
		if f.Shorthand != "" {
			t.short = "-" + f.Shorthand
		}
		if f.NoOptDefVal != "" { // a switch, also of a type of its own
			t.value = ""
		}
		// What is nothing is no default worth a word.
		if !slices.Contains([]string{"", "0", "false", "[]"}, f.DefValue) {
			t.means += " (default " + strings.Trim(f.DefValue, "[]") + ")"
		}
		all = append(all, t)
	})
	return all
}
