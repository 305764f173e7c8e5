package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/internal/readable"
	"ublkremap/test/vmtest"
)

// everyVerb calls f for the command and every verb, also those for other programs.
func everyVerb(f func(cmd *cobra.Command)) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		f(cmd)
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	var b bytes.Buffer
	visit(newRoot(&app{stdio: stdio{in: &b, out: &b, err: &b}}))
}

// TestHelpFits: the help of each verb fits into 80 columns of a terminal.
func TestHelpFits(t *testing.T) {
	seen := 0
	everyVerb(func(cmd *cobra.Command) {
		seen++
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		for _, line := range strings.Split(mustRun(t, 0, args...).out, "\n") {
			if n := readable.Columns(line); n > 80 {
				t.Errorf("%s: %d columns: %s", cmd.CommandPath(), n, line)
			}
			if strings.ContainsRune(line, '\t') || strings.HasSuffix(line, " ") {
				t.Errorf("%s: a tab, or a blank at the end: %q", cmd.CommandPath(), line)
			}
		}
	})
	if seen < 50 {
		t.Errorf("only %d verbs were seen", seen)
	}
}

// TestHelpStyle: what a verb is for is one line in the list of verbs, without a full stop. What a
// flag takes has a name of this program, not of Go.
func TestHelpStyle(t *testing.T) {
	goType := regexp.MustCompile(`^(string|strings|stringArray|u?int\d*|duration|seconds)$`)
	everyVerb(func(cmd *cobra.Command) {
		if len(cmd.Short) > 65 || strings.HasSuffix(cmd.Short, ".") || cmd.Short == "" {
			t.Errorf("%s: %q", cmd.CommandPath(), cmd.Short)
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			value, usage := pflag.UnquoteUsage(f)
			if goType.MatchString(value) || usage == "" || strings.HasSuffix(usage, ".") {
				t.Errorf("%s --%s %s: %q", cmd.CommandPath(), f.Name, value, usage)
			}
		})
	})
}

// TestExamples: the program takes the command lines of the help's examples.
func TestExamples(t *testing.T) {
	seen := 0
	everyVerb(func(cmd *cobra.Command) {
		for _, line := range strings.Split(cmd.Example, "\n") {
			_, line, found := strings.Cut(line, "ublk-remap ")
			if !found {
				continue
			}
			seen++
			line, _, _ = strings.Cut(line, " #")
			line, _, _ = strings.Cut(line, ">")
			line, _, _ = strings.Cut(line, "|")
			args := strings.Fields(strings.TrimRight(strings.TrimSpace(line), ")"))
			// Each gets a command of its own, since flags keep their values.
			root := newRoot(&app{stdio: stdio{in: cmd.InOrStdin(), out: cmd.OutOrStdout(),
				err: cmd.ErrOrStderr()}})
			verb, rest, err := root.Find(args)
			if err == nil {
				err = verb.ParseFlags(rest)
			}
			if err == nil {
				err = verb.ValidateArgs(verb.Flags().Args())
			}
			if err != nil || verb.CommandPath() != cmd.CommandPath() {
				t.Errorf("%s: %s: %v", cmd.CommandPath(), line, err)
			}
		}
	})
	if seen < 20 {
		t.Errorf("only %d examples were seen", seen)
	}
}

// TestHelpVerb: help is --help, and a verb that is none is an error.
func TestHelpVerb(t *testing.T) {
	want := mustRun(t, 0, "remap", "add", "--help").out
	if got := mustRun(t, 0, "help", "remap", "add").out; got != want {
		t.Errorf("%s", got)
	}
	for _, args := range [][]string{{"nothing"}, {"remap", "nothing"}} {
		r := mustRun(t, 2, append([]string{"help"}, args...)...)
		if !strings.Contains(r.err, `no verb "`+strings.Join(args, " ")+`"`) {
			t.Errorf("%s", r.err)
		}
	}
}

// manPages writes all manual pages, and returns their paths.
func manPages(t *testing.T) []string {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	dir := t.TempDir()
	mustRun(t, 0, "man", dir)
	pages, err := filepath.Glob(filepath.Join(dir, "*.8"))
	if err != nil || len(pages) < 45 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	return pages
}

// TestManPages: each verb has a page, of the date that was asked for. No page has what a reader of
// manual pages does not expect: a tab in text that is filled, or anything but ASCII.
func TestManPages(t *testing.T) {
	pages := manPages(t)
	everyVerb(func(cmd *cobra.Command) {
		hidden := false
		cmd.VisitParents(func(c *cobra.Command) { hidden = hidden || c.Hidden })
		path := filepath.Join(filepath.Dir(pages[0]),
			strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8")
		_, err := os.Stat(path)
		if has := err == nil; has == (hidden || cmd.Hidden || cmd.Name() == "help") {
			t.Errorf("%s has a page: %v", cmd.CommandPath(), has)
		}
	})
	for _, path := range pages {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(page), "\n")
		if !strings.HasPrefix(head, ".TH UBLK\\-REMAP") ||
			!strings.Contains(head, " 8 2026-01-01 ") {
			t.Errorf("%s: %s", filepath.Base(path), head)
		}
		for i, line := range strings.Split(string(page), "\n") {
			odd := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' })
			if odd >= 0 || len(line) > 120 || strings.HasSuffix(line, " ") {
				t.Errorf("%s:%d: %q", filepath.Base(path), i+1, line)
			}
		}
	}
}

// TestManLint: mandoc has nothing to say about the pages. scripts/deps installs it.
func TestManLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		if _, noDebian := exec.LookPath("apt-get"); noDebian != nil || vmtest.InGuest() {
			t.Skipf("%v, and no apt-get to install it", err)
		}
		t.Fatalf("%v: scripts/deps installs it", err)
	}
	out, err := exec.Command(mandoc, append([]string{"-Tlint", "-Wwarning"},
		manPages(t)...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
