package alert

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/alert/settings"
	"ublkremap/internal/config"
)

// written writes a file with a mode, whatever the umask is.
func written(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path,
		mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSecret: a token is a word in a file that nobody else can read or replace. What it is refused
// for is said with the file's name.
func TestSecret(t *testing.T) {
	dir := ownDir(t)
	for _, c := range []struct {
		what, text string
		mode       os.FileMode
		want       error
		says       string
	}{
		{"a token", "t0ken-._~+/=", 0o600, nil, ""},
		{"with a line's end", "t0ken\n", 0o400, nil, ""},
		{"of a group", "t0ken\r\n", 0o440, nil, ""},
		{"empty", "", 0o600, config.ErrInvalid, "empty"},
		{"blank", " \n\n", 0o600, config.ErrInvalid, "empty"},
		{"two lines", "one\ntwo\n", 0o600, config.ErrInvalid, "more than one line"},
		{"a header", "Bearer one\n", 0o600, config.ErrInvalid, "Bearer"},
		{"not ASCII", "\ufefftoken", 0o600, config.ErrInvalid, "ASCII"},
		{"zeroes", "a\x00\x00", 0o600, config.ErrInvalid, "ASCII"},
		{"long", strings.Repeat("x", 2*maxSecret), 0o600, config.ErrInvalid, "more than"},
		{"everybody's", "t0ken", 0o666, config.ErrRefused, "chmod 600 "},
		{"readable", "t0ken", 0o604, config.ErrRefused, "chmod 600 "},
		{"writable by a group", "t0ken", 0o620, config.ErrRefused, "chmod 600 "},
	} {
		path := written(t, filepath.Join(dir, c.what), c.text, c.mode)
		got, err := readSecret(path)
		if c.want == nil && (err != nil || got != strings.TrimSpace(c.text)) {
			t.Errorf("%s: %q, %v", c.what, got, err)
		}
		if c.want != nil && (!errors.Is(err, c.want) || got != "" || !strings.Contains(err.Error(),
			c.says) || !strings.HasPrefix(err.Error(), path+": ")) {
			t.Errorf("%s: %q, %v", c.what, got, err)
		}
	}
	good, link := filepath.Join(dir, "a token"), filepath.Join(dir, "link")
	pipe, open := filepath.Join(dir, "pipe"), filepath.Join(dir, "open")
	if err := errors.Join(os.Symlink(good, link), unix.Mkfifo(pipe, 0o600), os.Mkdir(open, 0o700),
		os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	if got, err := readSecret(link); err != nil || got != "t0ken-._~+/=" {
		t.Errorf("a link: %q, %v", got, err)
	}
	inOpen := written(t, filepath.Join(open, "token"), "t0ken", 0o600)
	toOpen := filepath.Join(dir, "to open")
	nowhere := filepath.Join(dir, "nowhere")
	if err := errors.Join(os.Symlink(inOpen, toOpen), os.Symlink(dir+"/x", nowhere)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{pipe: config.ErrInvalid, inOpen: config.ErrRefused,
		toOpen: config.ErrRefused, nowhere: fs.ErrNotExist, dir: config.ErrInvalid,
		filepath.Join(dir, "none"): fs.ErrNotExist} {
		if _, err := readSecret(path); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(good, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := readSecret(link); !errors.Is(err, config.ErrRefused) ||
			!strings.Contains(err.Error(), "chown root: "+good) {
			t.Errorf("of somebody else: %v", err)
		}
	}
}

// TestWaysRefused: a monitor does not begin with a webhook whose files make no sense.
func TestWaysRefused(t *testing.T) {
	dir := ownDir(t)
	token := written(t, filepath.Join(dir, "token"), "t0ken", 0o600)
	ca := written(t, filepath.Join(dir, "ca.pem"), "no certificate", 0o644)
	open := written(t, filepath.Join(dir, "open.pem"), "", 0o666)
	empty := written(t, filepath.Join(dir, "empty"), "\n", 0o600)
	for _, c := range []struct {
		token, ca, says string
		want            error
	}{
		{empty, "", empty, config.ErrInvalid},
		{token, ca, ca, config.ErrInvalid},
		{token, open, open, config.ErrRefused},
		{"", filepath.Join(dir, "none"), "none", fs.ErrNotExist},
	} {
		s := settings.New()
		s.Webhook, s.WebhookToken, s.WebhookCA = "https://localhost/", c.token, c.ca
		if _, _, err := Ways(s, slog.New(slog.DiscardHandler)); !errors.Is(err, c.want) ||
			!strings.HasPrefix(err.Error(), "webhook: ") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestNotRun: what a program lacks to be run is named, with what to do.
func TestNotRun(t *testing.T) {
	dir := ownDir(t)
	for _, c := range []struct {
		what, text string
		mode       os.FileMode
		says       string
	}{
		{"interpreter", "#! /no/such/shell -e\nexit\n", 0o755,
			"its interpreter, /no/such/shell, is not there; install that"},
		{"windows", "#!/bin/sh\r\nexit\r\n", 0o755, "sed -i"},
		{"no script", "exit\n", 0o755, "#!/bin/sh"},
		{"empty", "", 0o755, "#!/bin/sh"},
	} {
		path := written(t, filepath.Join(dir, c.what), c.text, c.mode)
		checked := trustedProgram(path)
		if script := strings.HasPrefix(c.text, "#!"); script != (checked != nil) || script &&
			!strings.Contains(checked.Error(), c.says) {
			t.Errorf("%s is checked: %v", c.what, checked)
		}
		_, err := runProgram(t.Context(), time.Minute, []string{path}, nil, nil)
		if err == nil || !strings.HasPrefix(err.Error(), path+": ") ||
			!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "fork/exec") {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	none := filepath.Join(dir, "none")
	if _, err := runProgram(t.Context(), time.Minute, []string{none}, nil, nil); err == nil ||
		err.Error() != none+": file does not exist" {
		t.Errorf("none: %v", err)
	}
	// Of a program that did run, its own error is told.
	fails := script(t, filepath.Join(dir, "fails"), "exit 7")
	if _, err := runProgram(t.Context(), time.Minute, []string{fails}, nil, nil); err == nil ||
		err.Error() != fails+": exit status 7" {
		t.Error(err)
	}
}

// TestProgramsRefused: what is not there, and what others could have written, is neither run nor
// passed over in silence, whichever way it is of.
func TestProgramsRefused(t *testing.T) {
	dir := ownDir(t)
	ran := filepath.Join(dir, "ran")
	m := message(t, "data")
	none, link := filepath.Join(dir, "none"), filepath.Join(dir, "link")
	open := script(t, filepath.Join(dir, "open"), "touch "+ran)
	events := filepath.Join(dir, "events.d")
	script(t, filepath.Join(events, "10-open"), "touch "+ran)
	if err := errors.Join(os.Symlink(none, link), os.Chmod(open, 0o777), os.Symlink(none,
		filepath.Join(events, "20-link")), os.Chmod(filepath.Join(events, "10-open"),
		0o775)); err != nil {
		t.Fatal(err)
	}
	plain := written(t, filepath.Join(dir, "plain"), "#!/bin/sh\n", 0o644)
	mail := func(path string) *Mail { return &Mail{Sendmail: path, To: []string{"root"}} }
	command := func(path string) *Command { return &Command{Args: []string{path}} }
	for _, c := range []struct {
		way  Way
		says string
	}{
		{mail(none), "install a program for mail"},
		{mail(link), "a link to " + none},
		{mail(open), "chmod go-w " + open},
		{mail(dir), "not a regular file"},
		{mail(plain), "chmod +x " + plain},
		{command(dir), "not a regular file"},
		{command(plain), "chmod +x " + plain},
		{command(none), "install it"},
		{command(link), "a link to " + none},
		{command(open), "chmod go-w " + open},
	} {
		sent, checked := c.way.Send(t.Context(), m), c.way.(Checker).Check()
		for _, err := range []error{sent, checked} {
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(),
				"\n") {
				t.Errorf("%s, %s: %v", c.way.Name(), c.says, err)
			}
		}
	}
	w := &Hooks{Dir: events, Limit: time.Minute, Log: slog.New(slog.DiscardHandler)}
	for _, err := range []error{w.Take(t.Context(), "h", m.Worst()), w.Check()} {
		if err == nil || !strings.Contains(err.Error(), "chmod go-w "+events+"/10-open") ||
			!strings.Contains(err.Error(), "20-link: file does not exist: it is a link to "+none) {
			t.Errorf("hooks: %v", err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program that others can write was run")
	}
	// A directory that the settings name has to be there; the one that they do not name need not.
	missing := &Hooks{Dir: none, Named: true}
	if err := missing.Check(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := (&Hooks{Dir: none}).Check(); err != nil {
		t.Errorf("no directory, by default: %v", err)
	}
}

// TestCheckAtStart: a monitor logs at once which ways would not bring an alert, each in a line.
func TestCheckAtStart(t *testing.T) {
	var log bytes.Buffer
	dir := ownDir(t)
	m := &Monitor{log: slog.New(slog.NewTextHandler(&log, nil)), ways: []Way{
		&Mail{Sendmail: filepath.Join(dir, "none")},
		&Command{Args: []string{script(t, filepath.Join(dir, "good"), "")}}},
		takers: []NoticeWay{&Hooks{Dir: filepath.Join(dir, "gone"), Named: true}}}
	m.check()
	text := log.String()
	if strings.Count(text, "\n") != 2 || !strings.Contains(text, "way=mail") ||
		!strings.Contains(text, "way=hooks") || !strings.Contains(text, "alerts test") {
		t.Errorf("%s", text)
	}
}
