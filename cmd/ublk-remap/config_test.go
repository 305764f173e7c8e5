package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"ublkremap/cmd/ublk-remap/internal/doctor"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/alert/settings"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
)

var update = flag.Bool("update", false, "write what is made from the program anew")

// useConfigDir gives the test a configuration directory of its own, with these files.
func useConfigDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(config.DirEnv, dir)
	return dir
}

// keysTable returns the table of docs/CONFIG.md.
func keysTable(options []config.Option, change bool) string {
	var b strings.Builder
	b.WriteString("| key | means | can be | default |")
	if change {
		b.WriteString(" a change needs |\n| --- | --- | --- | --- | --- |\n")
	} else {
		b.WriteString("\n| --- | --- | --- | --- |\n")
	}
	for _, o := range options {
		means := strings.ToUpper(o.Help[:1]) + o.Help[1:] + "."
		if o.More != "" {
			means += " " + o.More
		}
		want := o.Value.Want()
		if o.Value.Kind() == config.List {
			want = "a list of " + want
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |", o.Name, means, want, o.DefaultText())
		if change {
			fmt.Fprintf(&b, " %s |", o.Change)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// The tables in docs/CONFIG.md are the ones that are made from the options.
func TestConfigDocs(t *testing.T) {
	anywhere(t)
	const path = "../../docs/CONFIG.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	now := string(text)
	for name, table := range map[string]string{"keys": keysTable(newStartOptions(nil).all, true),
		"monitor keys": keysTable(settings.New().Options, false)} {
		from, to := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
		before, rest, ok := strings.Cut(now, from)
		_, after, ok2 := strings.Cut(rest, to)
		if !ok || !ok2 {
			t.Fatalf("%s has no table of %s", path, name)
		}
		now = before + from + "\n" + table + "\n" + to + after
	}
	switch {
	case now == string(text):
	case !*update:
		t.Fatalf("%s is not what the program says; run: go test ./cmd/ublk-remap -run "+
			"TestConfigDocs -update", path)
	default:
		if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The file of the monitor is checked as those of sets are: its sample and each key of it is well,
// and what is wrong is told with its place.
func TestMonitorConfig(t *testing.T) {
	useRuntimeDir(t)
	sample := mustRun(t, 0, "config", "sample", "--monitor").out
	keys := regexp.MustCompile(`(?m)^# ([a-z-]+ = .*)$`).FindAllStringSubmatch(sample, -1)
	if len(keys) != len(settings.New().Options) {
		t.Errorf("%d keys in %s", len(keys), sample)
	}
	all := ""
	for _, k := range keys {
		all += k[1] + "\n"
	}
	for _, text := range []string{sample, all, ""} {
		dir := useConfigDir(t, map[string]string{"monitor.conf": text})
		for _, args := range [][]string{{}, {"monitor.conf"},
			{filepath.Join(dir, "monitor.conf")}} {
			r := mustRun(t, 0, append([]string{"config", "check"}, args...)...)
			if !strings.Contains(r.out, "monitor.conf: ok") {
				t.Errorf("%q: %s", args, r.out)
			}
		}
	}
	for text, says := range map[string]string{
		"mail_to = [\"root\"]\n":           `:1:1: there is no key "mail_to"; do you mean mail-to?`,
		"mail-to = \"root\"\n":             ":1:1: mail-to: want a list",
		"mail-to = [\"a\\nBcc: b\"]\n":     ":1:1: mail-to: ",
		"mail-to = [\"-oQ/tmp\"]\n":        ":1:1: mail-to: ",
		"[alerts]\nmail-to = [\"root\"]\n": "there is no table [alerts]",
		"webhook = \"ftp://x\"\n":          ":1:1: webhook: ",
		"\nwebhook-ca = \"/x\"\n":          ":2:1: webhook-ca: there is no webhook",
		"mail-from = \"a@b\"\n":            "there is no mail-to",
		"command = [\"page-me\"]\n":        "begins with /",
		"command = []\n":                   "begins with /",
		"mail-to = []\n":                   "names nobody",
		"webhook = \"https://:80/\"\n":     "want a URL",
		"webhook = \"http://x:99999\"\n":   "want a URL",
		"frob = 1\n":                       "ublk-remap config sample --monitor",
		"journal = true\n":                 ":1:1: journal: want on or off",
		"digest = \"1s\"\n":                ":1:1: digest: ",
		"# x\nrepeat = \"-1h\"\n":          ":2:1: repeat: ",

		"webhook = \"http://a:b@x\"\nwebhook-token = \"/x\"": ":2:1: webhook-token: ",
		"digest=\"2m\"\ndigest=\"2m\"":                       ":2:1: this is not TOML: key digest",
	} {
		useConfigDir(t, map[string]string{"monitor.conf": text})
		if r := mustRun(t, exit.Usage, "config", "check"); !strings.Contains(r.err, says) {
			t.Errorf("%q: %q, want %q", text, r.err, says)
		}
	}
	dir := useConfigDir(t, map[string]string{"monitor.conf": ""})
	if err := os.Chmod(filepath.Join(dir, "monitor.conf"), 0o666); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exit.Refused, "config", "check")
}

// TestEmptyKeys: no key of a file takes an empty text, alone or in a list, for none.
func TestEmptyKeys(t *testing.T) {
	useRuntimeDir(t)
	for file, options := range map[string][]config.Option{"data.toml": newStartOptions(nil).all,
		"monitor.conf": settings.New().Options} {
		for _, o := range options {
			for _, value := range []string{`""`, `[""]`} {
				dir := useConfigDir(t, map[string]string{file: o.Name + " = " + value + "\n"})
				r := mustRun(t, exit.Usage, "config", "check")
				if !strings.HasPrefix(r.err, filepath.Join(dir, file)+":1:1: "+o.Name+": ") ||
					!strings.Contains(r.err, "want ") {
					t.Errorf("%s = %s: %q", o.Name, value, r.err)
				}
			}
		}
	}
}

// Every flag of start is a key and every key is a flag, except those that are marked otherwise. So
// the manual page, which is made from the flags, has all of them.
func TestFlagsAreKeys(t *testing.T) {
	a := &app{}
	cmd, _, err := newRoot(a).Find([]string{"start"})
	if err != nil {
		t.Fatal(err)
	}
	// These say how start runs, not how the set is served.
	own := map[string]bool{"help": true, "json": true, "all": true, "foreground": true,
		"no-config": true, "adopt": true, "root-storage": true}
	for _, f := range ownFlags {
		own[f] = true
	}
	options := newStartOptions(nil).all
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		o := config.Find(options, f.Name)
		switch {
		case own[f.Name]:
		case o == nil || o.NoFlag:
			t.Errorf("--%s is no key", f.Name)
		case !strings.HasPrefix(f.Usage, o.Help), o.Default == "" &&
			f.DefValue != o.DefaultText():
			t.Errorf("--%s: %q, default %q", f.Name, f.Usage, f.DefValue)
		}
	})
	for _, o := range options {
		if f := cmd.Flag(o.Name); (f == nil) != o.NoFlag {
			t.Errorf("%s: flag %v", o.Name, f)
		}
		if o.Help == "" || strings.HasSuffix(o.Help, ".") || o.Value.Want() == "" {
			t.Errorf("%s: %q, %q", o.Name, o.Help, o.Value.Want())
		}
	}
}

// The examples of the documentation, and the sample, have no errors.
func TestConfigExamples(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	text, err := os.ReadFile("../../docs/CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 4 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, e := range examples {
		useConfigDir(t, map[string]string{"data.toml": e[1]})
		mustRun(t, 0, "config", "check", "data")
	}
	sample := mustRun(t, 0, "config", "sample").out
	useConfigDir(t, map[string]string{"data.toml": sample})
	mustRun(t, 0, "config", "check")
	// Without the comment signs each key exists and has a value of its form.
	keys := regexp.MustCompile(`(?m)^# ([a-z-]+ = .*)$`).FindAllStringSubmatch(sample, -1)
	if len(keys) != len(newStartOptions(nil).all) {
		t.Errorf("%d keys in %s", len(keys), sample)
	}
	for _, k := range keys {
		useConfigDir(t, map[string]string{"data.toml": k[1] + "\n"})
		mustRun(t, 0, "config", "check")
	}
}

// check, show and start all report an error of a file with its place, and nothing is started.
func TestBadConfig(t *testing.T) {
	useRuntimeDir(t)
	for name, c := range map[string]struct {
		text string
		says string // of the file, behind its path
		code int
	}{
		"an unknown key": {"# x\nquues = 3\n", `:2:1: there is no key "quues"; do you mean queues?`,
			exit.Usage},
		"nothing like a key": {"color = \"red\"\n", `:1:1: there is no key "color"`, exit.Usage},
		"underscores":        {"zero_copy = \"on\"\n", `do you mean zero-copy?`, exit.Usage},
		"a number as text": {"depth = 8\n  queues = \"2\"\n",
			":2:3: queues: want a number without quotes, 1 to 64", exit.Usage},
		"a text as switch": {"zero-copy = true\n",
			":1:1: zero-copy: want auto, on or off, in quotes",
			exit.Usage},
		"out of range": {"queues = 65\n",
			`:1:1: queues: "65": want a number without quotes, 1 to 64`, 2},
		"no time": {"fail-fast = \"soon\"\n",
			`:1:1: fail-fast: "soon": want a time such as`, 2},
		"no size": {"max-io = \"100KiB\"\n",
			`want a power of two from 64KiB to 1MiB`, 2},
		"a list": {"spare-device = \"/dev/sdb\"\n", `want a list, such as ["…"]`, 2},
		"a relative path": {"spare-device = [\"sdb\"]\n",
			`"sdb": want a path that begins with /`, 2},
		"a fraction": {"queues = 1.5\n",
			`:1:1: queues: want a text in quotes, a whole number`, 2},
		"twice":              {"queues = 1\nqueues = 2\n", `:2:1: this is not TOML: key queues`, 2},
		"a table":            {"[start]\nqueues = 2\n", `:1:2: there is no table [start]`, 2},
		"a point":            {"start.queues = 2\n", `:1:1: there is no key start.queues`, 2},
		"cut off":            {"queues = 2\ndepth =", `:2:7: this is not TOML: expected value`, 2},
		"half a text":        {"log-level = \"deb", `:1:16: this is not TOML: unterminated`, 2},
		"zeroes":             {"\x00\x00\x00\x00", `:1:1: this is not TOML`, 2},
		"of another program": {"[Unit]\nDescription=x\n", `this is not TOML`, 2},
		"too long": {strings.Repeat("# comment\n", 7000),
			`it has more than 65536 bytes`, 2},
		"not together": {"depth = 1\nbatch-io = \"on\"\n",
			`want 2 or more with batch-io on`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := useConfigDir(t, map[string]string{"data.toml": c.text})
			for _, args := range [][]string{{"config", "check"}, {"config", "check", "data"},
				{"config", "check", filepath.Join(dir, "data.toml")}, {"config", "show", "data"},
				{"start", "data"}} {
				r := mustRun(t, c.code, args...)
				if !strings.Contains(r.err, filepath.Join(dir, "data.toml")) ||
					!strings.Contains(r.err, c.says) {
					t.Errorf("%v: %q, want %q", args, r.err, c.says)
				}
			}
		})
	}
}

// All errors of a file are reported at once, as text and as JSON.
func TestConfigCheckTellsAll(t *testing.T) {
	useRuntimeDir(t)
	dir := useConfigDir(t, map[string]string{"bad.toml": "x1 = 1\nqueues = 0\n", "good.toml": "",
		"other.toml~": "x = ", ".hidden.toml": "x = "})
	var all []checkedFile
	r := ublkRemapMany(t, "config", "check", "--json")
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || r.code != exit.Usage {
		t.Fatalf("%d, %v: %s", r.code, err, r.out)
	}
	if len(all) != 2 || all[0].Name != "bad" || all[0].OK || len(all[0].Problems) != 2 ||
		all[0].Problems[1].Line != 2 || all[0].Problems[1].Key != "queues" || !all[1].OK {
		t.Errorf("%+v", all)
	}
	if strings.Count(r.err, "\n") != 2 {
		t.Errorf("one line for each error: %q", r.err)
	}
	if r := mustRun(t, 0, "config", "check", "good"); r.out != dir+"/good.toml: ok\n" {
		t.Errorf("%q", r.out)
	}
	mustRun(t, exit.NotFound, "config", "check", "missing")
	mustRun(t, exit.Usage, "config", "check", "./x.conf")
	mustRun(t, exit.Usage, "config", "show", "..")
}

// ublkRemapMany is ublkRemap for a verb that may print several lines.
func ublkRemapMany(t *testing.T, args ...string) result {
	t.Helper()
	r := result{}
	r.code, r.out, r.err = runSeparately(args)
	return r
}

// A file that others could have written is refused. So is a file in a directory that others can
// write.
func TestUntrustedConfig(t *testing.T) {
	useRuntimeDir(t)
	dir := useConfigDir(t, map[string]string{"data.toml": "queues = 1\n"})
	path := filepath.Join(dir, "data.toml")
	refuse := func(what, says string) {
		t.Helper()
		for _, args := range [][]string{{"config", "check", "data"}, {"start", "data"}} {
			if r := mustRun(t, exit.Refused, args...); !strings.Contains(r.err, says) {
				t.Errorf("%s: %q", what, r.err)
			}
		}
	}
	for _, mode := range []os.FileMode{0o666, 0o664, 0o646} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		refuse(mode.String(), "others than its owner may write to it")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, 0, "config", "check", "data")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	refuse("the directory", "chmod go-w "+dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 4242, 0); err != nil {
			t.Fatal(err)
		}
		refuse("of somebody else", "it belongs to user 4242")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := mustRun(t, exit.Usage, "config", "check", "data"); !strings.Contains(r.err,
		"not a regular file") {
		t.Errorf("a directory: %q", r.err)
	}
}

// A disk that carries another set than the one of the file is refused before anything is started.
func TestConfigOfAnotherSet(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	mustRun(t, 0, "create", disk, "--name", "other")
	backing := fmt.Sprintf("\nbacking = %q\n", disk)
	dir := useConfigDir(t, map[string]string{"data.toml": backing, "other.toml": backing})
	for _, args := range [][]string{{"config", "check", "data"}, {"start", "data"}} {
		r := ublkRemapMany(t, args...)
		if r.code != exit.Refused || !strings.Contains(r.err, dir+"/data.toml:2:1: refused: "+disk+
			` carries the set "other", and this is the file of "data"`) {
			t.Errorf("%v: %d, %q", args, r.code, r.err)
		}
	}
	// Two files for one disk.
	if r := mustRun(t, exit.Usage, "config", "check", "other"); !strings.Contains(r.err,
		"other.toml:2:1: backing "+disk+": "+dir+"/data.toml names it too, in line 2") {
		t.Errorf("%q", r.err)
	}
	// Another set with that name.
	useConfigDir(t, map[string]string{
		"other.toml": "uuid = \"0198b1f2-0000-7000-8000-000000000001\"\n" + backing})
	for _, args := range [][]string{{"config", "check", "other"}, {"start", "other"},
		{"start", disk}} {
		if r := mustRun(t, exit.Refused, args...); !strings.Contains(r.err,
			"other.toml:1:1: refused: the file is for another set of this name") {
			t.Errorf("%v: %q", args, r.err)
		}
	}
}

// Flags override the file, and the file overrides defaults. show says where a value comes from.
func TestConfigShow(t *testing.T) {
	useRuntimeDir(t)
	dir := useConfigDir(t, map[string]string{"data.toml": "# x\nqueues = 3\n fail-fast = \"0\"\n" +
		"spare-device = [\"/dev/a b\", \"/dev/c\"]\n"})
	show := func() (s shownConfig, by map[string]shownOption) {
		t.Helper()
		if err := json.Unmarshal([]byte(mustRun(t, 0, "config", "show", "data", "--json").out),
			&s); err != nil {
			t.Fatal(err)
		}
		by = map[string]shownOption{}
		for _, o := range s.Options {
			by[o.Name] = o
		}
		return s, by
	}
	s, by := show()
	if s.Name != "data" || s.File != filepath.Join(dir, "data.toml") || s.Running ||
		len(s.Options) != len(newStartOptions(nil).all) {
		t.Errorf("%+v", s)
	}
	if q := by["queues"]; q.Value != "3" || q.From != "file" || q.Line != 2 || q.Column != 1 ||
		q.Change != "restart" {
		t.Errorf("%+v", q)
	}
	if f := by["fail-fast"]; f.Value != "0s" || f.Column != 2 || f.Default != "1m0s" ||
		f.Change != "reload" {
		t.Errorf("%+v", f)
	}
	if d := by["depth"]; d.Value != "128" || d.From != "default" || d.Line != 0 {
		t.Errorf("%+v", d)
	}
	if d := by["spare-device"]; len(d.Values) != 2 || d.Values[0] != "/dev/a b" {
		t.Errorf("%+v", d)
	}
	r := control.Record{Name: "data", UUID: "u", ID: 5, Device: "/dev/ublkb5", Backing: "/dev/x",
		Options: map[string]string{"queues": "2", "fail-fast": "0s"}}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if _, by = show(); by["queues"].Running == nil || *by["queues"].Running != "2" ||
		by["fail-fast"].Running != nil || by["depth"].Running != nil {
		t.Errorf("%+v", by)
	}
	out := mustRun(t, 0, "config", "show", "data").out
	if !regexp.MustCompile(`(?m)^queues +3 +\S+/data.toml:2 +2 +restart *$`).MatchString(out) {
		t.Errorf("%s", out)
	}
	// A set without a file has the defaults.
	if out := mustRun(t, 0, "config", "show", "nothing").out; strings.Contains(out, ".toml") {
		t.Errorf("%s", out)
	}
}

// Options of one run of start. Those from flags stay. Those from the file change, except the ones
// that are set when the device is made.
func TestFlagsOverFile(t *testing.T) {
	useRuntimeDir(t)
	useConfigDir(t, map[string]string{"data.toml": "queues = 3\ndepth = 16\nfail-fast = \"7s\"\n"})
	r := &control.Record{Name: "data", UUID: "0198b1f2-0000-7000-8000-000000000001",
		Options: map[string]string{"queues": "2", "retries": "5"}}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	addFlags(flags, newStartOptions(nil).all)
	if err := flags.Parse([]string{"--depth=32"}); err != nil {
		t.Fatal(err)
	}
	run, err := optionsOf(flags, r)
	if err != nil {
		t.Fatal(err)
	}
	if run.queues != 3 || run.depth != 32 || run.failFast.Seconds() != 7 {
		t.Errorf("%+v", run.startOptions)
	}
	changed, pending := run.since(r)
	if got := fmt.Sprint(changed, pending); got !=
		"[{retries 5 2} {fail-fast 1m0s 7s}] [{queues 2 3} {depth 128 32}]" {
		t.Error(got)
	}
	u := upgraded{Device: "/dev/ublkb0", Name: "data", Changed: changed, Pending: pending}
	if got := u.changes(); got != "/dev/ublkb0: retries 5 -> 2, fail-fast 1m0s -> 7s; queues 2 -> "+
		"3, depth 128 -> 32: not before the device is stopped and started "+
		"(ublk-remap stop data)\n" {
		t.Error(got)
	}
	r.Options = nil // of an older version
	if changed, pending := run.since(r); len(changed)+len(pending) != 0 {
		t.Error(changed, pending)
	}
}

// doctor has a line for each file of a set, and one for each error in a file.
func TestDoctorExaminesFiles(t *testing.T) {
	anywhere(t)
	a := &app{}
	dir := useConfigDir(t, nil)
	if got := a.examineFiles(t.Context()); len(got) != 1 || got[0].State != doctor.OK ||
		!strings.Contains(got[0].What, dir) {
		t.Errorf("without a file: %+v", got)
	}
	dir = useConfigDir(t, map[string]string{"good.toml": "queues = 2\n",
		"bad.toml": "queues = 2\nquues = 3\ndepth = \"x\"\n", "open.toml": ""})
	open := filepath.Join(dir, "open.toml")
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range a.examineFiles(t.Context()) {
		if c.Name != "configuration" || (c.State == doctor.Warning) != (c.Do != "") {
			t.Errorf("%+v", c)
		}
		got = append(got, strings.TrimPrefix(c.What, dir+"/"))
	}
	for i, want := range []string{"bad.toml:2:1: there is no key", "bad.toml:3:", "good.toml",
		"open.toml: "} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Fatalf("line %d is not %q: %q", i, want, got)
		}
	}
	if len(got) != 4 {
		t.Errorf("%q", got)
	}
}
