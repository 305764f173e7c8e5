package manual

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/internal/readable"
)

// width is the number of columns that help takes at most, and that most terminals have at least.
const width = 80

// SetUsage gives a command, and all below it, the help of this package.
func SetUsage(root *cobra.Command) {
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		_, err := io.WriteString(cmd.OutOrStderr(), usage(cmd))
		return err
	})
}

// usage is all of a verb's help but its description.
func usage(cmd *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n", synopsis(cmd))
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(&b, "\nAliases:\n  %s\n", strings.ReplaceAll(cmd.NameAndAliases(), ",", ", "))
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	if verbs := verbs(cmd); len(verbs) > 0 {
		b.WriteString("\nVerbs:\n")
		var rows [][2]string
		for _, v := range verbs {
			rows = append(rows, [2]string{"  " + v.Name(), v.Short})
		}
		columns(&b, rows)
	}
	flags(&b, "Flags", cmd.LocalFlags())
	flags(&b, "Flags of every verb", cmd.InheritedFlags())
	if len(verbs(cmd)) > 0 {
		fmt.Fprintf(&b, "\n%s VERB --help says more about a verb.\n", cmd.CommandPath())
	}
	return b.String()
}

// synopsis is the line that says what can follow a verb.
func synopsis(cmd *cobra.Command) string {
	if len(verbs(cmd)) > 0 {
		return cmd.CommandPath() + " VERB [flags]"
	}
	return cmd.UseLine()
}

// verbs are those below a verb that are to be seen, by name.
func verbs(cmd *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, c)
		}
	}
	return all
}

func flags(b *strings.Builder, heading string, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", heading)
	var rows [][2]string
	for _, f := range flagTexts(set) {
		short := "    "
		if f.short != "" {
			short = f.short + ", "
		}
		left := strings.TrimRight("  "+short+f.long+" "+f.value, " ")
		rows = append(rows, [2]string{left, f.means})
	}
	columns(b, rows)
}

// widest is the widest left column. What is wider has its text in the line below.
const widest = 29

// columns writes a left column, and beside it text that is wrapped.
func columns(b *strings.Builder, rows [][2]string) {
	left := 0
	for _, r := range rows {
		if n := readable.Columns(r[0]); n <= widest {
			left = max(left, n)
		}
	}
	left += 3
	for _, r := range rows {
		at := readable.Columns(r[0])
		b.WriteString(r[0])
		if at > left-3 {
			b.WriteByte('\n')
			at = 0
		}
		for _, line := range wrap(r[1], width-left) {
			fmt.Fprintf(b, "%*s%s\n", left-at, "", line)
			at = 0
		}
	}
}

// wrap breaks a text into lines. It never breaks a word.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case readable.Columns(line)+1+readable.Columns(word) > columns:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
