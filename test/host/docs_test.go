package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// documented returns the commands of a section of a page in docs/: its indented lines. Words are
// pairs: a word of the page, and what replaces it on the host.
func documented(t *testing.T, page, heading string, words ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut("\n"+string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return indented(t, page+", "+heading, section, words)
}

// documentedPart is documented for the commands that follow a text, up to the next line that is
// none.
func documentedPart(t *testing.T, page, text string, words ...string) string {
	t.Helper()
	all, err := os.ReadFile(filepath.Join("../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(all), text)
	_, part, more := strings.Cut(part, "\n\n    ")
	if !found || !more {
		t.Fatalf("%s has no commands after %q", page, text)
	}
	part, _, _ = strings.Cut(part, "\n\n")
	return indented(t, page+", "+text, "    "+part+"\n", words)
}

// indented returns the indented lines of a text.
func indented(t *testing.T, where, section string, words []string) string {
	t.Helper()
	var commands strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			commands.WriteString(command)
		}
	}
	if commands.Len() == 0 {
		t.Fatalf("%s: no commands", where)
	}
	return strings.NewReplacer(words...).Replace(commands.String())
}
