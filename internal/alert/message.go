package alert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Message is what people are told at once: one notice, or a digest of several.
type Message struct {
	ID      string    `json:"id"` // a UUID; the same at each try
	Host    string    `json:"host"`
	Time    time.Time `json:"time"`
	Subject string    `json:"subject"` // a line
	Text    string    `json:"text"`    // lines
	Notices []*Notice `json:"alerts"`  // the most urgent first; never empty
}

// maxLines bounds how many notices of a digest are listed one by one.
const maxLines = 100

func newMessage(host string, now time.Time, all ...*Notice) *Message {
	m := &Message{ID: uuid.NewString(), Host: host, Time: now, Notices: all}
	m.Subject = m.subject()
	m.Text = m.text()
	return m
}

// Worst is the notice that the message is first of all about.
func (m *Message) Worst() *Notice { return m.Notices[0] }

func (m *Message) subject() string {
	w := m.Worst()
	what := string(w.Severity())
	switch {
	case w.Event == Over || w.Event == Past:
		what = Over
	case w.Kind == TestKind.Name:
		what = TestKind.Name
	}
	if len(m.Notices) == 1 {
		return fmt.Sprintf("[%s] %s (%s)", what, w.Text, m.Host)
	}
	return fmt.Sprintf("[%s] %d alerts of ublk-remap on %s", what, len(m.Notices), m.Host)
}

// text is the message in words: what happened, what it means, what to do.
func (m *Message) text() string {
	var b strings.Builder
	if len(m.Notices) == 1 {
		m.one(&b, m.Worst())
	} else {
		m.several(&b)
	}
	told := map[string]bool{}
	for _, n := range m.Notices {
		k := n.kind()
		if told[k.Name] || n.Event == Over {
			continue
		}
		told[k.Name] = true
		name := n.Word
		if m.sets(k.Name) > 1 {
			name = "NAME"
		}
		b.WriteString(k.runbook(name))
	}
	b.WriteString(m.quiet())
	return b.String()
}

// one tells of a single notice.
func (m *Message) one(b *strings.Builder, n *Notice) {
	fmt.Fprintf(b, "%s\n\n", n.Text)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "  %-8s %s\n", name, value)
		}
	}
	row("host", m.Host)
	if n.Device != "" {
		row("device", fmt.Sprintf("%s (%s) on %s", n.Device, n.Set, cmp.Or(n.Backing, "no disk")))
	}
	row("time", n.Time.Format(time.RFC3339))
	if !n.Since.Equal(n.Time) {
		row("since", n.Since.Format(time.RFC3339))
	}
	row("reason", n.Reason)
	row("do", n.Action)
	b.WriteByte('\n')
}

// several lists the notices of a digest, by what became of them.
func (m *Message) several(b *strings.Builder) {
	fmt.Fprintf(b, "On %s this happened:\n\n", m.Host)
	for i, n := range m.Notices {
		if i == maxLines {
			fmt.Fprintf(b, "  and %d more; all are shown by: ublk-remap alerts list\n",
				len(m.Notices)-maxLines)
			break
		}
		fmt.Fprintf(b, "  %s  [%s] %s", n.Time.Format(time.DateTime), n.label(), n.Text)
		if n.Times > 1 {
			fmt.Fprintf(b, " It was told %d times since %s.", n.Times,
				n.Since.Format(time.DateTime))
		}
		if n.Action != "" && n.Event != Over {
			fmt.Fprintf(b, " %s", n.Action)
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}

// label is how urgent a notice is, in a word.
func (n *Notice) label() string {
	if n.Event == Over || n.Event == Past {
		return Over
	}
	return string(n.Severity())
}

// sets counts the devices that the message has notices of a kind of.
func (m *Message) sets(kind string) int {
	var all []string
	for _, n := range m.Notices {
		if n.Kind == kind && n.Event != Over && !slices.Contains(all, n.Word) {
			all = append(all, n.Word)
		}
	}
	return len(all)
}

// quiet says how to acknowledge.
func (m *Message) quiet() string {
	w := m.Worst()
	k := w.kind()
	if k.Over == "" || w.Event == Over {
		return ""
	}
	command := "ublk-remap alerts ack " + w.Word + " " + w.Kind
	if len(m.Notices) > 1 {
		command = "ublk-remap alerts ack NAME"
	}
	return "To hear nothing more of it until it gets worse:\n\n    " + command + "\n"
}
