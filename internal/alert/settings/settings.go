// Package settings says what /etc/ublk-remap/monitor.conf can have: whom the monitor tells about
// alerts, and how. It is a package of its own so that config check, in a program that has to be
// small, needs none of what sends alerts.
package settings

import (
	"cmp"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"ublkremap/internal/config"
)

// StateDirEnv overrides the directory of what the monitor remembers. It is for tests.
const StateDirEnv = "UBLK_REMAP_STATE"

// StateDir is where the monitor remembers what it has told.
func StateDir() string { return cmp.Or(os.Getenv(StateDirEnv), "/var/lib/ublk-remap") }

// Settings is what the file sets.
type Settings struct {
	MailTo       []string
	MailFrom     string
	Sendmail     string
	Command      []string
	Webhook      string
	WebhookToken string // path
	WebhookCA    string // path
	Journal      string // on or off
	Hooks        string // path of a directory
	HookTime     time.Duration
	Interval     time.Duration // between two rounds
	Digest       time.Duration
	Repeat       time.Duration // 0: never

	// Options are the keys.
	Options []config.Option
}

// New returns the defaults.
func New() *Settings {
	s := &Settings{}
	s.Options = append(s.ways(), s.times()...)
	return s
}

// ways are the keys that say how alerts are brought to people.
func (s *Settings) ways() []config.Option {
	return []config.Option{
		{Name: "mail-to", Value: config.Texts(&s.MailTo, "ADDRESS",
			"addresses of mail, or users of this host", IsAddress),
			Default: "nobody", Sample: "root", Help: "whom to mail alerts to"},
		{Name: "mail-from", Value: config.Parsed(&s.MailFrom, "", "ADDRESS",
			"an address of mail", IsAddress), Default: "the user that runs the monitor, root",
			Sample: "ublk-remap@example.org", Help: "sender of the mail"},
		{Name: "sendmail", Value: config.Parsed(&s.Sendmail, "/usr/sbin/sendmail", "PATH",
			"the path of a program", isPath), Path: true,
			Help: "program that takes mail on its standard input, with -t -oi"},
		{Name: "command", Value: config.Texts(&s.Command, "WORD",
			"the path of a program and its arguments", anyText),
			Default: "none", Sample: "/usr/local/bin/page-me",
			Help: "program to run with the text of the alert on its standard input",
			More: "It is not run by a shell. Its environment has what hooks have " +
				"([OPERATIONS.md](OPERATIONS.md#hooks)), and UBLK_REMAP_SUBJECT and " +
				"UBLK_REMAP_COUNT. It may take a minute."},
		{Name: "webhook", Value: config.Parsed(&s.Webhook, "", "URL",
			"a URL that begins with https:// or http://", isWebhook), Default: "none",
			Sample: "https://alerts.example.org/ublk-remap",
			Help:   "URL to post alerts to, as JSON",
			More: "It is a secret if who knows it can post: then `chmod 600` this file. It is " +
				"in no log."},
		{Name: "webhook-token", Value: config.Parsed(&s.WebhookToken, "", "FILE",
			"the path of a file", isPath), Path: true, Default: "none",
			Sample: "/etc/ublk-remap/webhook.token",
			Help:   "file with a token that is sent as Authorization: Bearer",
			More: "It has the token alone, in one line, and is refused if others than its owner " +
				"and its group can read it, or others than its owner write it: `chmod 600` it."},
		{Name: "webhook-ca", Value: config.Parsed(&s.WebhookCA, "", "FILE",
			"the path of a file", isPath), Path: true, Default: "those of the host",
			Sample: "/etc/ssl/certs/ours.pem",
			Help:   "file with the certificates of who signs that of the webhook"},
		{Name: "journal", Value: config.Choice(&s.Journal, "on", "on", "off"),
			Help: "whether systemd's journal is told, with a MESSAGE_ID"},
		{Name: "hooks", Value: config.Parsed(&s.Hooks, filepath.Join(config.Dir(), "events.d"),
			"DIR", "the path of a directory", isPath), Path: true,
			Help: "directory of programs that are run for each alert"},
	}
}

// times are the keys that say when.
func (s *Settings) times() []config.Option {
	return []config.Option{
		{Name: "hook-time", Value: config.Time(&s.HookTime, 30*time.Second, time.Second,
			10*time.Minute, "a time from 1s to 10m"), Help: "how long a hook may take"},
		{Name: "interval", Value: config.Time(&s.Interval, 10*time.Second, time.Second,
			10*time.Minute, "a time from 1s to 10m"),
			Help: "time between two looks at all devices"},
		{Name: "digest", Value: config.Time(&s.Digest, time.Hour, time.Minute, 24*time.Hour,
			"a time from 1m to 24h"),
			Help: "time between two digests, when more happens than three messages can tell"},
		{Name: "repeat", Value: config.Time(&s.Repeat, 24*time.Hour, 0, 30*24*time.Hour,
			"a time up to 720h, or 0 for never"),
			Help: "after how long an alert that nobody has acknowledged is told again"},
	}
}

// address is an address of mail, or a user of this host. It has no character that means something
// in a header.
var address = regexp.MustCompile(`^[A-Za-z0-9._%+=/-]+(@[A-Za-z0-9.-]+|@\[[0-9A-Fa-f.:]+\])?$`)

// IsAddress returns an error if a text is no address that mail can be sent to.
func IsAddress(text string) error {
	if len(text) > 320 || !address.MatchString(text) || text[0] == '-' {
		return errors.New("no address")
	}
	return nil
}

// isWebhook returns an error if a text is no URL that can be posted to.
func isWebhook(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return errors.New("no URL")
	}
	if _, err := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16); err != nil {
		return errors.New("no port")
	}
	return nil
}

// hasUser reports whether a URL has a user or a password.
func hasUser(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.User != nil
}

func isPath(text string) error {
	if text == "" {
		return errors.New("no path")
	}
	return nil
}

func anyText(string) error { return nil }

// Apply takes what a file sets; nil sets nothing. The error joins a *config.Problem for each
// setting that makes no sense.
func (s *Settings) Apply(f *config.File) error {
	if err := f.Apply(s.Options, nil); err != nil {
		return err
	}
	var problems []error
	if c := f.Setting("command"); c != nil && (len(s.Command) == 0 ||
		!filepath.IsAbs(s.Command[0])) {
		problems = append(problems, f.At(c,
			"command: want a path that begins with / as the first item"))
	}
	if x := f.Setting("mail-to"); x != nil && len(s.MailTo) == 0 {
		problems = append(problems, f.At(x, "mail-to: it names nobody; want an address, or leave "+
			"it out if nobody is to be mailed"))
	}
	for _, key := range []string{"webhook-token", "webhook-ca"} {
		if x := f.Setting(key); x != nil && s.Webhook == "" {
			problems = append(problems, f.At(x, "%s: there is no webhook", key))
		}
	}
	if x := f.Setting("webhook-token"); x != nil && hasUser(s.Webhook) {
		problems = append(problems, f.At(x, "webhook-token: the webhook has a user before its @ "+
			"already, and only one of them can be sent; leave one out"))
	}
	if x := f.Setting("mail-from"); x != nil && len(s.MailTo) == 0 {
		problems = append(problems, f.At(x, "mail-from: there is no mail-to"))
	}
	return errors.Join(problems...)
}
