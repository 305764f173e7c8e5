package manual

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// TestDescription: each kind of text becomes what man(7) has for it, and nothing of it is taken for
// a request or an escape.
func TestDescription(t *testing.T) {
	for text, want := range map[string]string{
		"One\ntwo.\n\nThree.":         "One two.\n.PP\nThree.\n",
		".hidden\n\n'quoted'":         "\\&.hidden\n.PP\n\\&'quoted'\n",
		`a\b re-read --dry-run "x" …`: "a\\eb re-read \\-\\-dry\\-run \"x\" ...\n",
		"(--json) /dev/by-id a-b":     "(\\-\\-json) /dev/by\\-id a-b\n",
		"~ ^ ` × é":                   "\\(ti \\(ha \\(ga \\[u00D7] \\[u00E9]\n",
		"Is\n  on   it is\n       lit\n  off  not": "Is\n.TP\n\\fBon\\fP\nit is lit\n" +
			".TP\n\\fBoff\\fP\nnot\n",
		"  1. one   first\n  2. two   second": ".TP\n\\fB1. one\\fP\nfirst\n" +
			".TP\n\\fB2. two\\fP\nsecond\n",
		"Type:\n\n    a -b 'c'\n    .d\n\nThen.": "Type:\n.RS 4\n.nf\na \\-b \\(aqc\\(aq\n" +
			"\\&.d\n.fi\n.RE\n.PP\nThen.\n",
	} {
		var b strings.Builder
		description(&b, text)
		if b.String() != want {
			t.Errorf("%q: %q, want %q", text, b.String(), want)
		}
	}
}

// TestPage: a page has a section for what a verb has, and none for what it has not.
func TestPage(t *testing.T) {
	root := &cobra.Command{Use: "p", Short: "Do it", Long: "Text."}
	root.PersistentFlags().Bool("quiet", false, "say nothing")
	sub := &cobra.Command{Use: "sub FILE", Short: "Do a part",
		Run: func(*cobra.Command, []string) {}}
	sub.Flags().IntP("number", "n", 7, "`HOW` many")
	sub.Flags().String("hidden", "", "never seen")
	_ = sub.Flags().MarkHidden("hidden")
	root.AddCommand(sub, &cobra.Command{Use: "secret", Hidden: true, Run: sub.Run})
	pages := Pages{Section: "8", Source: "p 1", Date: time.Unix(86399, 0)}

	for _, c := range []struct {
		cmd  *cobra.Command
		want string
	}{{root, `.TH P 8 1970-01-01 "p 1"
.SH NAME
p \- Do it
.SH SYNOPSIS
\fBp\fP VERB [flags]
.SH DESCRIPTION
Text.
.SH VERBS
.TP
\fBsub\fP
Do a part
.SH OPTIONS
.TP
\fB\-h\fP, \fB\-\-help\fP
help for p
.TP
\fB\-\-quiet\fP
say nothing
.SH SEE ALSO
.BR p\-sub (8)
`}, {sub, `.TH P\-SUB 8 1970-01-01 "p 1"
.SH NAME
p\-sub \- Do a part
.SH SYNOPSIS
\fBp sub\fP FILE [flags]
.SH DESCRIPTION
Do a part.
.SH OPTIONS
.TP
\fB\-h\fP, \fB\-\-help\fP
help for sub
.TP
\fB\-n\fP, \fB\-\-number\fP \fIHOW\fP
HOW many (default 7)
.SH OPTIONS OF EVERY VERB
.TP
\fB\-\-quiet\fP
say nothing
.SH SEE ALSO
.BR p (8)
`}} {
		var b strings.Builder
		pages.page(&b, c.cmd)
		if b.String() != c.want {
			t.Errorf("%s", b.String())
		}
	}
}

// TestColumns: text beside a column is wrapped, and what is wide has it in the next line.
func TestColumns(t *testing.T) {
	words := strings.TrimSpace(strings.Repeat("words ", 20))
	var b strings.Builder
	columns(&b, [][2]string{{"  --a", "short"}, {"  --" + strings.Repeat("w", 40), words}})
	lines := strings.Split(b.String(), "\n")
	if lines[0] != "  --a   short" || lines[1] != "  --"+strings.Repeat("w", 40) ||
		!strings.HasPrefix(lines[2], "        words") || len(lines) != 5 {
		t.Errorf("%q", lines)
	}
	if got := strings.Join(strings.Fields(b.String())[3:], " "); got != words {
		t.Errorf("%q", got)
	}
}
