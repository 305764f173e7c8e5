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
	var commands strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			commands.WriteString(command)
		}
	}
	if commands.Len() == 0 {
		t.Fatalf("%s, %s: no commands", page, heading)
	}
	return strings.NewReplacer(words...).Replace(commands.String())
}
