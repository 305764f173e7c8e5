package alert

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"ublkremap/internal/alert/settings"
	"ublkremap/internal/readable"
)

// mailTime is how long sendmail may take. It gives the mail to a daemon, or sends it itself.
const mailTime = 2 * time.Minute

// Mail is a Way by the interface of sendmail, which each mail program of a host has.
type Mail struct {
	Sendmail string // path
	From     string // empty: who runs it, as sendmail decides
	To       []string
}

// Name implements Way.
func (*Mail) Name() string { return "mail" }

// Check implements Checker.
func (w *Mail) Check() error {
	err := trustedProgram(w.Sendmail)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; install a program for mail that has it, such as postfix or "+
			"msmtp-mta, or name another one in monitor.conf (sendmail)", err)
	}
	return err
}

// Send implements Way.
func (w *Mail) Send(ctx context.Context, m *Message) error {
	if err := w.Check(); err != nil {
		return err
	}
	text, err := w.render(m)
	if err != nil {
		return err
	}
	// -oi: a line with nothing but a dot is no end.
	_, err = runProgram(ctx, mailTime, []string{w.Sendmail, "-t", "-oi"}, nil, text)
	return err
}

// render makes the message of RFC 5322.
func (w *Mail) render(m *Message) ([]byte, error) {
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	// A user of this host is an address for sendmail, and none for the library, so headers of
	// addresses are written as they are: they were checked by settings.IsAddress.
	header := "To: " + strings.Join(w.To, ",\r\n ") + "\r\n"
	for _, to := range w.To {
		if err := settings.IsAddress(to); err != nil {
			return nil, fmt.Errorf("%q: %w", to, err)
		}
	}
	if w.From != "" {
		if err := settings.IsAddress(w.From); err != nil {
			return nil, fmt.Errorf("%q: %w", w.From, err)
		}
		header += "From: ublk-remap <" + w.From + ">\r\n"
	}
	msg.SetDateWithValue(m.Time)
	msg.SetMessageIDWithValue(m.ID + "@" + hostPart(m.Host))
	// A name must not be taken for an encoded word (RFC 2047), in which there can be anything.
	msg.Subject(strings.ReplaceAll(readable.Text(m.Subject), "=?", "= ?"))
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	worst := m.Worst()
	msg.SetGenHeader("X-Ublk-Remap-Alert", worst.Kind)
	if worst.Severity() == Critical && worst.Event != Over {
		msg.SetImportance(mail.ImportanceHigh)
	}
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	var b bytes.Buffer
	b.WriteString(header)
	if _, err := msg.WriteTo(&b); err != nil {
		return nil, err
	}
	// sendmail takes lines as this host writes them.
	return bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n")), nil
}

// notHost is what the right side of a message's ID cannot have.
var notHost = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func hostPart(host string) string {
	return cmp.Or(strings.Trim(notHost.ReplaceAllString(host, "-"), "-."), "localhost")
}
