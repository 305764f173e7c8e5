package alert

import (
	"context"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// Journal tells systemd's journal of each notice, with the MESSAGE_ID of its kind. A catalog
// explains these: journalctl -x.
type Journal struct {
	// send is journal.Send, or a stand-in of a test.
	send func(message string, priority journal.Priority, vars map[string]string) error
}

// NewJournal returns the journal of this host, or nil if there is none.
func NewJournal() *Journal {
	if !journal.Enabled() {
		return nil
	}
	return &Journal{send: journal.Send}
}

// Name implements NoticeWay.
func (*Journal) Name() string { return "journal" }

// Take implements NoticeWay.
func (w *Journal) Take(_ context.Context, host string, n *Notice) error {
	k := n.kind()
	priority := journal.PriWarning
	switch {
	case n.Event == Over || n.Event == Past:
		priority = journal.PriNotice
	case k.Severity == Critical:
		priority = journal.PriCrit
	}
	vars := map[string]string{"MESSAGE_ID": k.MessageID, "SYSLOG_IDENTIFIER": "ublk-remap"}
	for _, field := range n.environment(host) {
		name, value, _ := strings.Cut(field, "=")
		vars[name] = value
	}
	text := n.Text
	if n.Reason != "" {
		text += " " + n.Reason
	}
	if n.Action != "" {
		text += "; " + n.Action
	}
	return w.send(text, priority, vars)
}
