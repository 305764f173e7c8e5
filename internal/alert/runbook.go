package alert

import (
	"regexp"
	"strings"
	"sync"

	"ublkremap/docs"
)

// sections returns the text of each section of docs/OPERATIONS.md, by its heading.
var sections = sync.OnceValue(func() map[string]string {
	all := map[string]string{}
	for _, part := range strings.Split("\n"+docs.Operations, "\n## ")[1:] {
		heading, text, _ := strings.Cut(part, "\n")
		all[heading] = strings.TrimSpace(text)
	}
	return all
})

var (
	// link is a link of Markdown, of which only the text is of use in a message.
	link = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	// code is a command or a name.
	code = regexp.MustCompile("`[^`]*`")
	// placeholder stands for the name of the set in commands.
	placeholder = regexp.MustCompile(`\bNAME\b`)
	// step begins what to do.
	step = regexp.MustCompile(`(?m)^1\. `)
)

// Runbook is where the kind's section is, in the form of the rules for Prometheus.
func (k *Kind) Runbook() string {
	return "docs/OPERATIONS.md#" + strings.ToLower(strings.ReplaceAll(k.Section, " ", "-"))
}

// parts returns what the alert means and what to do: the two parts of the kind's section, with this
// name, which is a word of a shell, in its commands.
func (k *Kind) parts(name string) (meaning, steps string) {
	text := link.ReplaceAllString(sections()[k.Section], "$1")
	text = code.ReplaceAllStringFunc(text, func(c string) string {
		return placeholder.ReplaceAllLiteralString(c, name)
	})
	at := step.FindStringIndex(text)
	if at == nil {
		return text, ""
	}
	return strings.TrimSpace(text[:at[0]]), strings.TrimSpace(text[at[0]:])
}

// runbook is the kind's section as a part of a message.
func (k *Kind) runbook(name string) string {
	meaning, steps := k.parts(name)
	text := k.Section + ": what it means\n\n" + meaning + "\n\n"
	if steps != "" {
		text += "What to do\n\n" + steps + "\n\n"
	}
	return text
}
