package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"encoding/pem"

	"github.com/coreos/go-systemd/v22/journal"

	"ublkremap/internal/alert/settings"
	"ublkremap/internal/control"
)

// ownDir is a directory that nobody else can write, whatever the umask is: what is run comes from
// such a one.
func ownDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// script writes a program.
func script(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// message is one about a device with a name like this.
func message(t *testing.T, name string) *Message {
	t.Helper()
	b := newBench(t, 0)
	d := live(name)
	d.Status.Breaker.State, d.Status.Reason = "open", "Größe «0»"
	d.Status.ErrorRecovery = []control.Drive{{Disk: "/dev/sda"}, {Disk: "/dev/sdb"}}
	b.devices = []Device{d}
	b.run(every)
	if len(b.messages) != 1 {
		t.Fatal("no message")
	}
	return b.messages[0]
}

// TestMail: what sendmail gets is a message that mail programs understand, whatever the name of the
// device is, and no name adds a header or a recipient.
func TestMail(t *testing.T) {
	dir := ownDir(t)
	w := &Mail{To: []string{"root", "a.b+c@example.org"}, From: "monitor@example.org",
		Sendmail: script(t, filepath.Join(dir, "sendmail"), `
printf '%s\n' "$*" >`+dir+`/args
cat >`+dir+`/mail`)}
	for _, name := range []string{"data", "größe 数据", "x\nBcc: evil@example.org\n\n.\nbody",
		"\r\n\r\n", strings.Repeat("long ", 500), "=?utf-8?q?=0ABcc:_evil?="} {
		m := message(t, name)
		if err := w.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		args, _ := os.ReadFile(filepath.Join(dir, "args"))
		text, err := os.ReadFile(filepath.Join(dir, "mail"))
		if err != nil || string(args) != "-t -oi\n" {
			t.Fatal(err, args)
		}
		got, err := mail.ReadMessage(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		h := got.Header
		for _, want := range []string{"Bcc", "Cc"} {
			if h.Get(want) != "" {
				t.Errorf("%s: %q", want, h[want])
			}
		}
		if to := strings.Join(strings.Fields(h.Get("To")), " "); to != "root, a.b+c@example.org" {
			t.Errorf("To: %q", to)
		}
		from, err := mail.ParseAddress(h.Get("From"))
		if err != nil || from.Address != "monitor@example.org" {
			t.Errorf("From: %q, %v", h.Get("From"), err)
		}
		if at, err := h.Date(); err != nil || !at.Equal(m.Time) {
			t.Errorf("Date: %q, %v", h.Get("Date"), err)
		}
		if id := h.Get("Message-ID"); id != "<"+m.ID+"@h>" {
			t.Errorf("Message-ID: %q", id)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
		if want := strings.ReplaceAll(m.Subject, "=?", "= ?"); err != nil || subject != want {
			t.Errorf("Subject: %q, want %q, %v", subject, m.Subject, err)
		}
		kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
		if err != nil || kind != "text/plain" || !strings.EqualFold(params["charset"], "utf-8") ||
			h.Get("MIME-Version") != "1.0" || h.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("%v", h)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
		if err != nil || strings.TrimRight(strings.ReplaceAll(string(body), "\r", ""), "\n") !=
			strings.TrimRight(m.Text, "\n") || !strings.Contains(string(body), "Größe «0»") {
			t.Errorf("%v: %s", err, body)
		}
		for line := range strings.Lines(string(text)) {
			if len(line) > 998 || strings.ContainsAny(line, "\r\x1b") {
				t.Errorf("%q", line)
			}
		}
	}
	w.Sendmail = filepath.Join(dir, "missing")
	if err := w.Send(t.Context(), message(t, "x")); err == nil ||
		!strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
	w.Sendmail = script(t, filepath.Join(dir, "bad"), "echo mailbox is full >&2; exit 75")
	if err := w.Send(t.Context(), message(t, "x")); err == nil ||
		!strings.Contains(err.Error(), "mailbox is full") {
		t.Error(err)
	}
}

// TestCommand: a command has the text, and what it is about in its environment and nowhere else.
func TestCommand(t *testing.T) {
	dir := ownDir(t)
	path := script(t, filepath.Join(dir, "page me"), `
printf '%s\n' "$1" "$UBLK_REMAP_ALERT" "$UBLK_REMAP_EVENT" "$UBLK_REMAP_SET" "$UBLK_REMAP_DISKS" \
	"$UBLK_REMAP_CRITICAL" "$UBLK_REMAP_COUNT" "$UBLK_REMAP_SUBJECT" >`+dir+`/env
cat >`+dir+`/text`)
	w := &Command{Args: []string{path, "$(touch x) ; *"}}
	m := message(t, "da'ta")
	if err := w.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	env, _ := os.ReadFile(filepath.Join(dir, "env"))
	want := "$(touch x) ; *\ntripped\nraised\nda'ta\n/dev/sda /dev/sdb\n1\n1\n" + m.Subject + "\n"
	if string(env) != want {
		t.Errorf("%q, want %q", env, want)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "text")); string(text) != m.Text {
		t.Errorf("%q", text)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), m); err == nil || !strings.Contains(err.Error(),
		"others than its owner may write to it") {
		t.Errorf("a command that anybody can write: %v", err)
	}
}

// TestProgramTime: a program that does not end is ended, with what it has started, and one that
// leaves something in the background keeps nobody.
func TestProgramTime(t *testing.T) {
	dir := t.TempDir()
	path := script(t, filepath.Join(dir, "slow"), "sleep 1000 & sleep 1000")
	began := time.Now()
	_, err := runProgram(t.Context(), 200*time.Millisecond, []string{path}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "ended after 200ms") ||
		time.Since(began) > time.Minute {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	path = script(t, filepath.Join(dir, "background"), "sleep 1000 & echo $! >"+dir+"/pid")
	if _, err := runProgram(t.Context(), time.Minute, []string{path}, nil, nil); err != nil {
		t.Error(err)
	}
	if pid, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
		_, _ = runProgram(t.Context(), time.Minute, []string{"/bin/kill",
			strings.TrimSpace(string(pid))}, nil, nil)
	}
	path = script(t, filepath.Join(dir, "loud"), "yes x | head -c 1000000; exit 1")
	if out, err := runProgram(t.Context(), time.Minute, []string{path}, nil, nil); err == nil ||
		len(out) > 2*maxOutput {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

// TestHooks: they run in order, each once for a notice; what is not to be trusted, or not a
// program, does not run; a hook that fails keeps none of the others.
func TestHooks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "events.d")
	ran := filepath.Join(t.TempDir(), "ran")
	note := `echo "${0##*/} $UBLK_REMAP_ALERT $UBLK_REMAP_EVENT" >>` + ran
	for _, name := range []string{"20-b", "10-a", "30-fails", "40-hangs", "50-c", "60-off", "70~",
		"80.dpkg-dist", ".90", "91-open", "README"} {
		script(t, filepath.Join(dir, name), note)
	}
	script(t, filepath.Join(dir, "30-fails"), note+"; echo why; exit 3")
	script(t, filepath.Join(dir, "40-hangs"), note+"; sleep 1000")
	script(t, filepath.Join(dir, "50-c"), note+"; echo said so")
	if err := errors.Join(os.Chmod(filepath.Join(dir, "60-off"), 0o644),
		os.Chmod(filepath.Join(dir, "91-open"), 0o777),
		os.Mkdir(filepath.Join(dir, "92-dir"), 0o755)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	w := &Hooks{Dir: dir, Limit: 5 * time.Second, Log: slog.New(slog.NewTextHandler(&log,
		nil))}
	n := message(t, "data").Worst()
	empty := &Hooks{Dir: t.TempDir(), Limit: w.Limit, Log: w.Log}
	if got, want := Test(t.Context(), nil, []NoticeWay{empty}, "h"),
		(Result{Way: "hooks", Note: "there is none in " + empty.Dir}); got[0] != want {
		t.Errorf("without a hook: %+v", got)
	}
	err := w.Take(t.Context(), "h", n)
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"30-fails: exit status 3: why", "40-hangs: it was ended",
		"91-open: refused: others than its owner may write to it"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no %q in %v", part, err)
		}
	}
	got, _ := os.ReadFile(ran)
	if want := "10-a tripped raised\n20-b tripped raised\n30-fails tripped raised\n" +
		"40-hangs tripped raised\n50-c tripped raised\n"; string(got) != want {
		t.Errorf("%s", got)
	}
	if !strings.Contains(log.String(), "said so") {
		t.Errorf("%s", &log)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := w.Take(t.Context(), "h", n); err == nil ||
		!strings.Contains(err.Error(), dir+": refused: others than its owner may write") {
		t.Errorf("a directory that anybody can write: %v", err)
	}
	if after, _ := os.ReadFile(ran); !bytes.Equal(after, got) {
		t.Errorf("it ran hooks: %s", after)
	}
	w.Dir = filepath.Join(dir, "none")
	if err := w.Take(t.Context(), "h", n); err != nil {
		t.Error(err)
	}
}

// TestLED: the hook of the package lights the LEDs of the bays that have the set's disks, and no
// other, while there are critical alerts. The tree is that of a SES enclosure.
func TestLED(t *testing.T) {
	hook, err := filepath.Abs("../../packaging/events.d/50-led")
	if err != nil {
		t.Fatal(err)
	}
	sys := t.TempDir()
	led := func(bay string) string {
		return filepath.Join(sys, "class/enclosure/0:0:8:0", bay, "fault")
	}
	for bay, disk := range map[string]string{"Slot 01": "sda", "Slot 02": "sdb", "Slot 03": ""} {
		dir := filepath.Dir(led(bay))
		if disk != "" {
			if err := os.MkdirAll(filepath.Join(dir, "device/block", disk), 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(led(bay), []byte("0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := func(event string, critical int, disks []string, leds string) {
		t.Helper()
		n := *message(t, "data").Worst()
		n.Event, n.Critical, n.Disks = event, critical, disks
		_, err := runProgram(t.Context(), time.Minute, []string{hook},
			append(n.environment("h"), "UBLK_REMAP_SYS="+sys), nil)
		if err != nil {
			t.Error(err)
		}
		got := ""
		for _, bay := range []string{"Slot 01", "Slot 02", "Slot 03"} {
			b, err := os.ReadFile(led(bay))
			if err != nil {
				t.Fatal(err)
			}
			got += strings.TrimSpace(string(b))
		}
		if got != leds {
			t.Errorf("%s, %d critical, %v: LEDs %s, want %s", event, critical, disks, got, leds)
		}
	}
	want(Raised, 0, []string{"/dev/sda"}, "000") // a warning
	want(Raised, 1, []string{"/dev/sda"}, "100")
	want(Worse, 2, []string{"/dev/sda", "/dev/sdb", "/dev/sdz"}, "110")
	want(Past, 0, []string{"/dev/sda"}, "110")
	want(Over, 1, []string{"/dev/sdb"}, "110")
	want(Over, 0, []string{"/dev/sdb"}, "100")
	want(Over, 0, []string{"/dev/sda"}, "000")
}

// TestJournal: each field is one that the journal takes, and the priority is that of the severity.
func TestJournal(t *testing.T) {
	var text string
	var priority journal.Priority
	var vars map[string]string
	w := &Journal{send: func(m string, p journal.Priority, v map[string]string) error {
		text, priority, vars = m, p, v
		return nil
	}}
	n := message(t, "data").Worst()
	if err := w.Take(t.Context(), "h", n); err != nil {
		t.Fatal(err)
	}
	if vars["MESSAGE_ID"] != KindOf("tripped").MessageID || priority != journal.PriCrit ||
		vars["UBLK_REMAP_SET"] != "data" || !strings.HasPrefix(text, n.Text) {
		t.Errorf("%s %d %v", text, priority, vars)
	}
	for name := range vars {
		if strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" || len(name) > 64 {
			t.Errorf("%q is no field", name)
		}
	}
}

// TestWebhook: it posts JSON that has everything, over TLS that it checks, with the token; what it
// is answered decides whether it is tried again; and no error has the URL's secret.
func TestWebhook(t *testing.T) {
	answer := http.StatusOK
	var got *http.Request
	var body []byte
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		if answer == http.StatusFound {
			http.Redirect(w, r, "/elsewhere", answer)
			return
		}
		w.WriteHeader(answer)
	}))
	defer s.Close()
	dir := ownDir(t)
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	if err := errors.Join(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: s.Certificate().Raw}), 0o600),
		os.WriteFile(token, []byte("t0ken\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	url := s.URL + "/hook/s3cret?key=s3cret"
	w, err := NewWebhook(url, token, ca)
	if err != nil {
		t.Fatal(err)
	}
	m := message(t, "da\"ta\n")
	if err := w.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	var p struct {
		Version int
		ID      string
		Text    string
		Subject string
		Alerts  []struct{ Alert, Event, Severity, Set, Word, Meaning, Steps, Runbook string }
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	if p.Version != 1 || p.ID != m.ID || p.Text != m.Text || len(p.Alerts) != 1 ||
		p.Alerts[0].Alert != "tripped" || p.Alerts[0].Severity != "critical" ||
		p.Alerts[0].Meaning == "" || !strings.Contains(p.Alerts[0].Steps, p.Alerts[0].Word) ||
		got.Header.Get("Authorization") != "Bearer t0ken" || got.Method != http.MethodPost ||
		got.Header.Get("Content-Type") != "application/json" ||
		got.Header.Get("Idempotency-Key") != m.ID {
		t.Errorf("%+v\n%v", p, got)
	}
	for code, again := range map[int]bool{500: true, 503: true, 429: true, 408: true, 400: false,
		404: false, 302: false} {
		answer = code
		err := w.Send(t.Context(), m)
		if err == nil || errors.Is(err, errRefused) == again ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%d: %v", code, err)
		}
	}
	unknown, err := NewWebhook(url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := unknown.Send(t.Context(), m); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a certificate of somebody unknown: %v", err)
	}
	s.Close()
	if err := w.Send(t.Context(), m); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := NewWebhook(url, "", token); err == nil {
		t.Error("a file without a certificate was taken")
	}
}

// standIn is a way of a test.
type standIn struct {
	name string
	mu   sync.Mutex
	got  []string
	at   []time.Time
	fail func() error
}

func (s *standIn) Name() string { return s.name }

func (s *standIn) Send(ctx context.Context, m *Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Now())
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return err
		}
	}
	s.got = append(s.got, m.Subject)
	return ctx.Err()
}

// TestDispatcher: a way that fails is tried again with longer and longer pauses, is logged once
// each, loses nothing, and keeps no other way.
func TestDispatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var down atomic.Bool
		down.Store(true)
		bad := &standIn{name: "bad", fail: func() error {
			if down.Load() {
				return errors.New("it is down")
			}
			return nil
		}}
		never := &standIn{name: "never", fail: func() error {
			return fmt.Errorf("no: %w", errRefused)
		}}
		good := &standIn{name: "good"}
		ways := []Way{bad, never, good}
		old := &Message{Subject: "old"}
		d := NewDispatcher("h", slog.New(slog.NewTextHandler(&log, nil)), ways, nil,
			map[string][]*Message{"bad": {old}})
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { d.Run(ctx, ways, nil); close(ended) }()
		for i := range 3 {
			d.Bring(nil, []*Message{{Subject: fmt.Sprint(i)}})
			synctest.Wait()
		}
		if !slices.Equal(good.got, []string{"0", "1", "2"}) {
			t.Errorf("the good one: %v", good.got)
		}
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		// 0, 10, 30, 70, 150, 310, 630, 1270, 2550, 5110, then each hour.
		if n := len(bad.at); n != 13 {
			t.Errorf("%d tries in five hours", n)
		}
		if u := d.Unsent(); len(u["bad"]) != 4 || len(u["good"]) != 0 {
			t.Errorf("%v", u)
		}
		down.Store(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if !slices.Equal(bad.got, []string{"old", "0", "1", "2"}) {
			t.Errorf("the bad one: %v", bad.got)
		}
		c := d.Counts()
		if c["bad"] != (Count{Sent: 4, Failed: 13}) || c["never"] != (Count{Failed: 3}) ||
			c["good"] != (Count{Sent: 3}) {
			t.Errorf("%v", c)
		}
		down.Store(true)
		for i := range 2 * maxUnsent {
			d.Bring(nil, []*Message{{Subject: fmt.Sprint("x", i)}})
			synctest.Wait()
		}
		if u := d.Unsent()["bad"]; len(u) != maxUnsent || u[len(u)-1].Subject !=
			fmt.Sprint("x", 2*maxUnsent-1) {
			t.Errorf("%d wait", len(u))
		}
		end()
		<-ended
		text := log.String()
		for line, n := range map[string]int{"which is tried again": 2, "by this way again": 1,
			"was not brought": 1, "are dropped": 1} {
			if got := strings.Count(text, line); got != n {
				t.Errorf("%q is logged %d times, want %d:\n%s", line, got, n, text)
			}
		}
	})
}

// TestMonitor: a monitor by itself, with its socket, its state and a way, and a second one that
// finds it running. A damaged state is a line in the log, and no storm.
func TestMonitor(t *testing.T) {
	dir := ownDir(t)
	t.Setenv(control.DirEnv, filepath.Join(dir, "run"))
	t.Setenv(settings.StateDirEnv, filepath.Join(dir, "state"))
	s := settings.New()
	s.Interval, s.Hooks = 10*time.Millisecond, filepath.Join(dir, "events.d")
	if err := os.Mkdir(s.Hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	told := filepath.Join(dir, "told")
	s.Command = []string{script(t, filepath.Join(dir, "command"), "cat >>"+told)}
	d := live("data")
	d.Status.Lost = 2
	var mu sync.Mutex
	source := func(context.Context, func(string) (EventPlace, bool)) Round {
		mu.Lock()
		defer mu.Unlock()
		st := *d.Status
		return Round{Time: time.Now(), Devices: []Device{{Status: &st, Answered: true}}}
	}
	var log bytes.Buffer
	start := func() (stop func()) {
		m, err := New(s, source, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		return func() {
			end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for began := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatalf("not within a minute: %s", what)
			}
		}
	}
	count := func() int {
		b, _ := os.ReadFile(told)
		return strings.Count(string(b), "Blocks of data have lost their data")
	}
	stop := start()
	c := NewClient()
	until("the alert is there", func() bool {
		l, err := c.List(t.Context())
		return err == nil && len(l) == 1 && l[0].Kind == "blocks-lost" && count() == 1
	})
	second, err := New(s, source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, ErrRuns) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := c.Acknowledge(t.Context(), Acknowledgement{Set: "other"}); !errors.Is(err,
		ErrNoAlert) {
		t.Error(err)
	}
	if done, err := c.Acknowledge(t.Context(), Acknowledgement{Set: "data"}); err != nil ||
		done.Count != 1 {
		t.Error(done, err)
	}
	results, err := c.Test(t.Context())
	if err != nil || !slices.Contains(results, Result{Way: "command"}) {
		t.Errorf("%v, %v", results, err)
	}
	stop()
	if _, err := c.List(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	stop = start()
	until("it runs again", func() bool { _, err := c.List(t.Context()); return err == nil })
	if l, err := c.List(t.Context()); err != nil || len(l) != 1 || l[0].Acknowledged == nil {
		t.Errorf("after a restart: %+v, %v", l, err)
	}
	stop()
	if n := count(); n != 1 {
		t.Errorf("told %d times", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "state", stateFile), []byte(`{"version":1,"se`),
		0o600); err != nil {
		t.Fatal(err)
	}
	stop = start()
	until("it begins anew", func() bool { return count() == 2 })
	stop()
	if n := strings.Count(log.String(), "level=WARN"); n != 1 ||
		!strings.Contains(log.String(), "damaged") {
		t.Errorf("%s", &log)
	}
}
