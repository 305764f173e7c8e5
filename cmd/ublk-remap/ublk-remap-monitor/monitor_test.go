package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/alert/settings"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
)

// ran is a run of this program.
type ran struct {
	code     int
	out, err string
}

// monitorWith runs this program, for no longer than a test may take.
func monitorWith(t *testing.T, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code := run(ctx, args, &out, &errs)
	return ran{code, out.String(), errs.String()}
}

// useDirs gives the program directories of its own, and a monitor.conf.
func useDirs(t *testing.T, conf string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	for env, name := range map[string]string{control.DirEnv: "run", config.DirEnv: "etc",
		settings.StateDirEnv: "state"} {
		t.Setenv(env, filepath.Join(dir, name))
	}
	writeFile(t, filepath.Join(dir, "etc", "monitor.conf"), conf, 0o600)
	return dir
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRefused: a monitor that cannot do what it is told ends before it does anything, with a line
// and nothing else, and the exit code that docs/COMMAND.md gives.
func TestRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := useDirs(t, "")
	bad := writeFile(t, filepath.Join(dir, "web.yml"), "foo: [", 0o600)
	none := filepath.Join(dir, "none")
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exit.Usage, `--listen "localhost:"`, []string{"--listen", "localhost:"}},
		{exit.Usage, `--listen "nonsense"`, []string{"--listen", ":0", "--listen", "nonsense"}},
		{exit.Usage, `--listen "127.0.0.1:99999"`, []string{"--listen", "127.0.0.1:99999"}},
		{exit.Usage, `--listen "192.0.2.1:80"`, []string{"--listen", "192.0.2.1:80"}},
		{exit.Failed, `--listen "` + taken.Addr().String() + `": another`,
			[]string{"--listen", taken.Addr().String()}},
		{exit.Usage, bad, []string{"--listen", "127.0.0.1:0", "--web-config", bad}},
		{exit.Usage, dir, []string{"--listen", "127.0.0.1:0", "--web-config", dir}},
		{exit.NotFound, none, []string{"--listen", "127.0.0.1:0", "--web-config", none}},
		{exit.NotFound, none, []string{"--textfile", none}},
		{exit.NotFound, bad, []string{"--textfile", bad}},
	} {
		r := monitorWith(t, append([]string{"monitor"}, c.args...)...)
		if r.code != c.code || r.out != "" || strings.Count(r.err, "\n") != 1 ||
			!strings.HasPrefix(r.err, "ublk-remap: --") || !strings.Contains(r.err, c.says) {
			t.Errorf("%q: exit code %d, want %d with %s:\n%s%s", c.args, r.code, c.code, c.says,
				r.out, r.err)
		}
	}
}

// TestAlertFiles: what is wrong with monitor.conf, or with a file of secrets that it names, ends
// the monitor and alerts test before anything is done.
func TestAlertFiles(t *testing.T) {
	dir := useDirs(t, "")
	conf := filepath.Join(dir, "etc", "monitor.conf")
	empty := writeFile(t, filepath.Join(dir, "empty"), "\n", 0o600)
	lines := writeFile(t, filepath.Join(dir, "lines"), "a\nb\n", 0o600)
	open := writeFile(t, filepath.Join(dir, "open"), "t0ken", 0o666)
	none := filepath.Join(dir, "none")
	hook := "webhook = \"https://localhost/x\"\nwebhook-token = "
	for _, c := range []struct {
		code int
		says string
		text string
	}{
		{exit.Usage, empty, hook + "\"" + empty + "\"\n"},
		{exit.Usage, lines, hook + "\"" + lines + "\"\n"},
		{exit.Refused, "chmod 600 " + open, hook + "\"" + open + "\"\n"},
		{exit.NotFound, none, hook + "\"" + none + "\"\n"},
		{exit.Usage, conf + ":2:1", hook + "\"\"\n"},
		{exit.Usage, conf + ":1:1", "mail-to = \"root\"\n"},
	} {
		writeFile(t, conf, c.text, 0o600)
		for _, args := range [][]string{{"monitor", "--listen", "127.0.0.1:0"},
			{"--log-level", "error", "alerts", "test"}} {
			r := monitorWith(t, args...)
			if r.code != c.code || r.out != "" || strings.Count(r.err, "\n") != 1 ||
				!strings.Contains(r.err, c.says) {
				t.Errorf("%q: %q: exit code %d, want %d with %s:\n%s%s", c.text, args, r.code,
					c.code, c.says, r.out, r.err)
			}
		}
	}
}

// TestAlertsTest: a way without its program is told of with what to do.
func TestAlertsTest(t *testing.T) {
	dir := useDirs(t, "")
	none := filepath.Join(dir, "sendmail")
	writeFile(t, filepath.Join(dir, "etc", "monitor.conf"), "mail-to = [\"root\"]\nsendmail = \""+
		none+"\"\n", 0o600)
	r := monitorWith(t, "alerts", "test")
	if r.code != exit.Failed || !strings.Contains(r.out, "mail: "+none+": ") ||
		!strings.Contains(r.out, "install a program for mail") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.err)
	}
}

// TestAlertsState: what is in the way of the alerts that are there is told with what to do. A
// monitor that somebody else could have put there is not believed.
func TestAlertsState(t *testing.T) {
	dir := useDirs(t, "")
	state := writeFile(t, filepath.Join(dir, "state", "alerts.json"), "{", 0o600)
	for _, args := range [][]string{{"alerts", "list"}, {"alerts", "ack", "x"}} {
		if r := monitorWith(t, args...); r.code != exit.Failed || !strings.Contains(r.err, state) ||
			!strings.Contains(r.err, "systemctl restart") {
			t.Errorf("%q: exit code %d: %s", args, r.code, r.err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "run"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"alerts", "list"}, {"alerts", "ack", "x"},
		{"alerts", "test"}} {
		if r := monitorWith(t, args...); r.code != exit.Refused || r.out != "" ||
			strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "chmod 700") {
			t.Errorf("%q: exit code %d: %s%s", args, r.code, r.out, r.err)
		}
	}
	out := t.TempDir()
	if r := monitorWith(t, "monitor", "--textfile", out); r.code != 0 || !strings.Contains(r.err,
		"devices may be missing") {
		t.Errorf("metrics without devices: exit code %d: %s", r.code, r.err)
	}
}
