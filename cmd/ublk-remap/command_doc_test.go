package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/test/vmtest"
)

// commandDoc is docs/COMMAND.md with the program that it is about.
type commandDoc struct {
	text string
	root *cobra.Command
}

func readCommandDoc(t *testing.T) *commandDoc {
	t.Helper()
	if vmtest.InGuest() {
		t.Skip("docs/ is not in the guest; make test-unit runs this")
	}
	text, err := os.ReadFile("../../docs/COMMAND.md")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	return &commandDoc{string(text), newRoot(&app{stdio: stdio{in: &b, out: &b, err: &b}})}
}

// verb finds the verbs that words name: a word can be several, as in pause|resume. It returns nil
// if the first word is none.
func (d *commandDoc) verb(words []string) []*cobra.Command {
	all := []*cobra.Command{d.root}
	for _, w := range words {
		var next []*cobra.Command
		for _, name := range strings.Split(w, "|") {
			for _, c := range all {
				for _, sub := range c.Commands() {
					if sub.Name() == name {
						next = append(next, sub)
					}
				}
			}
		}
		if next == nil {
			break
		}
		all = next
	}
	if all[0] == d.root {
		return nil
	}
	return all
}

// usage are the command lines of the document: in code blocks, with the lines that continue them.
var usage = regexp.MustCompile(`(?m)^    ublk-remap (\S.*(?:\n     .*\S)*)`)

var flagName = regexp.MustCompile(`--([a-z][a-z0-9-]*)`)

func flagOf(c *cobra.Command, name string) *pflag.Flag {
	if f := c.Flags().Lookup(name); f != nil {
		return f
	}
	return c.InheritedFlags().Lookup(name)
}

// TestDocumentedExists: the program has each verb and each flag of a command line in
// docs/COMMAND.md.
func TestDocumentedExists(t *testing.T) {
	d := readCommandDoc(t)
	found := usage.FindAllStringSubmatch(d.text, -1)
	if len(found) < 40 {
		t.Errorf("only %d command lines are found", len(found))
	}
	for _, m := range found {
		line := m[1]
		if strings.HasPrefix(line, "VERB ") {
			continue
		}
		verbs := d.verb(strings.Fields(line))
		if verbs == nil {
			t.Errorf("no verb: ublk-remap %s", line)
		}
		for _, f := range flagName.FindAllStringSubmatch(line, -1) {
			for _, c := range verbs {
				if flagOf(c, f[1]) == nil {
					t.Errorf("%s has no flag --%s: %s", c.CommandPath(), f[1], line)
				}
			}
		}
	}
}

// TestAllIsDocumented: each verb has a row in the table of docs/COMMAND.md and a command line, and
// each of its flags is in its section. The options of start are in docs/CONFIG.md, too.
func TestAllIsDocumented(t *testing.T) {
	d := readCommandDoc(t)
	head, _, _ := strings.Cut(d.text, "\n## ")
	config, err := os.ReadFile("../../docs/CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[*cobra.Command]bool{}
	for _, m := range usage.FindAllStringSubmatch(d.text, -1) {
		for _, c := range d.verb(strings.Fields(m[1])) {
			lines[c] = true
		}
	}
	var visit func(c *cobra.Command, section string)
	visit = func(c *cobra.Command, section string) {
		if c.Hidden || c.Name() == "completion" || c.Name() == "help" {
			return
		}
		path := strings.TrimPrefix(c.CommandPath(), "ublk-remap ")
		if c.Parent() == d.root {
			if !strings.Contains(head, "`"+c.Name()+"`") {
				t.Errorf("%s is not in the table of verbs", path)
			}
			section = d.section(c.Name())
		}
		if !c.HasSubCommands() && !lines[c] {
			t.Errorf("there is no command line of %s", path)
		}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" || f.Name == "json" {
				return
			}
			name := regexp.MustCompile(`--` + f.Name + `\b`)
			option := regexp.MustCompile("`" + f.Name + "`")
			if !name.MatchString(section) && !option.Match(config) {
				t.Errorf("--%s of %s is not in its section", f.Name, path)
			}
		})
		for _, sub := range c.Commands() {
			visit(sub, section)
		}
	}
	for _, c := range d.root.Commands() {
		visit(c, "")
	}
}

// section returns all sections whose headings name a verb.
func (d *commandDoc) section(verb string) string {
	var out strings.Builder
	word := regexp.MustCompile(`\b` + verb + `\b`)
	for _, s := range strings.Split("\n"+d.text, "\n## ")[1:] {
		if heading, _, _ := strings.Cut(s, "\n"); word.MatchString(heading) {
			out.WriteString(s)
		}
	}
	return out.String()
}
