package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"ublkremap/internal/config"
	"ublkremap/internal/control"
)

// TestComplete: each place is completed by what fits there: names of sets, words, files, or
// nothing. A name that a shell would read as something else is not offered.
func TestComplete(t *testing.T) {
	useRuntimeDir(t)
	t.Setenv(config.DirEnv, t.TempDir())
	for _, name := range []string{"vault", "-rf", "$(reboot)", "attic"} {
		path := filepath.Join(os.Getenv(config.DirEnv), name+".toml")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	owner, err := control.Own("media")
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Release()
	r := control.Record{Name: "media", UUID: "u", Device: "/dev/ublkb7", ID: 7, Backing: "/dev/sdz"}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	const files, nothing = ":0", ":4"
	media := "media\t/dev/ublkb7"
	for line, want := range map[string]string{
		"status |":                 media + " " + nothing,
		"status m|":                media + " " + nothing,
		"status x|":                nothing,
		"status media |":           nothing,
		"status /dev/u|":           files,
		"start |":                  media + " attic vault " + files,
		"start v|":                 "vault " + files,
		"disable |":                media + " attic vault " + files,
		"release |":                media + " attic vault " + files,
		"create |":                 files,
		"import media |":           files,
		"import media list |":      nothing,
		"files media 7 |":          nothing,
		"alerts ack |":             media + " " + nothing,
		"alerts ack media x|":      nothing,
		"config check /etc/|":      files,
		"list |":                   nothing,
		"export --format |":        "badblocks ddrescue json csv dmsetup " + nothing,
		"import --format |":        "badblocks ddrescue smart nvme dm-remap " + nothing,
		"import --of |":            "device disk " + nothing,
		"files --state |":          "pending lost mapped slow home " + nothing,
		"list --log-format |":      "console json " + nothing,
		"start --zero-copy |":      "auto on off " + nothing,
		"start --error-recovery |": "keep " + nothing,
		"start --queues |":         nothing,
		"scrub start --interval |": nothing,
		"create --badblocks |":     files,
		"create --spare-device |":  files,
		"metadata restore media |": files,
		"remap add media 1 2 3 |":  nothing,
		"fill media --from |":      files,
		"fill media |":             nothing,
		"export |":                 media + " " + files,
		"scrub status |":           media + " " + nothing,
	} {
		args := append([]string{"__complete"}, strings.Split(strings.TrimSuffix(line, "|"), " ")...)
		got := mustRun(t, 0, args...).out
		if got = strings.Join(strings.Split(strings.TrimSpace(got), "\n"), " "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// TestWordsOfFlags: the words that are offered for a flag are those of its help, and each flag of
// the table is there.
func TestWordsOfFlags(t *testing.T) {
	found := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for name, words := range flagWords {
			verb, flag, _ := strings.Cut(name, " --")
			f := cmd.Flags().Lookup(flag)
			if cmd.Name() != verb || f == nil {
				continue
			}
			found++
			for _, w := range words {
				if !strings.Contains(f.Usage, w) {
					t.Errorf("%s: the help does not say %s: %s", name, w, f.Usage)
				}
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRoot(&app{}))
	if found != len(flagWords) {
		t.Errorf("%d flags of %d", found, len(flagWords))
	}
}
