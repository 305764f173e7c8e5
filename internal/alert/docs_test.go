package alert

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/OPERATIONS.md and the catalog anew")

// table is the alerts as docs/OPERATIONS.md lists them.
func table() string {
	var b strings.Builder
	b.WriteString("| alert | severity | told when it is there for | `MESSAGE_ID` |\n" +
		"| --- | --- | --- | --- |\n")
	for _, k := range Kinds {
		wait := "at once"
		if k.For > 0 {
			wait = fmt.Sprintf("%.0f min", k.For.Minutes())
		}
		_, anchor, _ := strings.Cut(k.Runbook(), "#")
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s | `%s` |\n", k.Name, anchor, k.Severity, wait,
			k.MessageID)
	}
	fmt.Fprintf(&b, "| `%s` | | at once | `%s` |\n", TestKind.Name, TestKind.MessageID)
	return b.String()
}

// TestDocs: the table of docs/OPERATIONS.md is that of the program.
func TestDocs(t *testing.T) {
	const path, begin, end = "../../docs/OPERATIONS.md", "<!-- alerts -->\n",
		"<!-- end of alerts -->"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	_, after, found2 := strings.Cut(rest, end)
	want := before + begin + "\n" + table() + "\n" + end + after
	if !found || !found2 {
		t.Fatal("the place of the table is not there")
	}
	same(t, path, string(b), want)
}

// TestCatalog: the journal's catalog explains each MESSAGE_ID.
func TestCatalog(t *testing.T) {
	const path = "../../packaging/systemd/ublk-remap.catalog"
	b, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	same(t, path, string(b), Catalog())
}

func same(t *testing.T, path, got, want string) {
	t.Helper()
	switch {
	case got == want:
	case *update:
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the program has; run this test with -update", path)
	}
}
