package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Pages are what is the same on all manual pages of a program.
type Pages struct {
	Section string // of the manual, such as 8
	Source  string // program and version
	Date    time.Time
}

// Write makes the pages of a command and of all verbs below it that are to be seen, as files of a
// directory.
func (p *Pages) Write(cmd *cobra.Command, directory string) error {
	for _, c := range verbs(cmd) {
		if err := p.Write(c, directory); err != nil {
			return err
		}
	}
	var page strings.Builder
	p.page(&page, cmd)
	path := filepath.Join(directory, name(cmd)+"."+p.Section)
	return os.WriteFile(path, []byte(page.String()), 0o644)
}

// name is that of a command's page.
func name(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// page writes one page in the macros of man(7), those that mandoc and groff both know.
func (p *Pages) page(w *strings.Builder, cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	title := literal(name(cmd))
	fmt.Fprintf(w, ".TH %s %s %s \"%s\"\n", strings.ToUpper(title), p.Section,
		p.Date.UTC().Format(time.DateOnly), literal(p.Source))
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", title, running(cmd.Short))
	before, after := cmd.CommandPath(), strings.TrimPrefix(synopsis(cmd), cmd.CommandPath())
	fmt.Fprintf(w, ".SH SYNOPSIS\n\\fB%s\\fP%s\n", literal(before), literal(after))
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(w, ".PP\n%s can be called %s too.\n", literal(cmd.Name()),
			literal(strings.Join(cmd.Aliases, " or ")))
	}
	fmt.Fprint(w, ".SH DESCRIPTION\n")
	if cmd.Long != "" {
		description(w, cmd.Long)
	} else {
		description(w, cmd.Short+".")
	}
	if verbs := verbs(cmd); len(verbs) > 0 {
		fmt.Fprint(w, ".SH VERBS\n")
		for _, v := range verbs {
			entry(w, "\\fB"+literal(v.Name())+"\\fP", v.Short)
		}
	}
	options(w, "OPTIONS", cmd.NonInheritedFlags())
	options(w, "OPTIONS OF EVERY VERB", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprint(w, ".SH EXAMPLES\n")
		description(w, cmd.Example)
	}
	seeAlso(w, cmd, p.Section)
}

func options(w *strings.Builder, heading string, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(w, ".SH %s\n", heading)
	for _, f := range flagTexts(set) {
		term := "\\fB" + literal(f.long) + "\\fP"
		if f.short != "" {
			term = "\\fB" + literal(f.short) + "\\fP, " + term
		}
		if f.value != "" {
			term += " \\fI" + literal(f.value) + "\\fP"
		}
		entry(w, term, f.means)
	}
}

// seeAlso names the pages above and below.
func seeAlso(w *strings.Builder, cmd *cobra.Command, section string) {
	var names []string
	if cmd.HasParent() {
		names = append(names, name(cmd.Parent()))
	}
	for _, c := range verbs(cmd) {
		names = append(names, name(c))
	}
	if len(names) == 0 {
		return
	}
	fmt.Fprint(w, ".SH SEE ALSO\n")
	for i, n := range names {
		comma := ","
		if i == len(names)-1 {
			comma = ""
		}
		fmt.Fprintf(w, ".BR %s (%s)%s\n", literal(n), section, comma)
	}
}
