package top

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// layout says which lines of the window show what. Numbers are lines from the top.
type layout struct {
	list, listRows int // the rows of devices
	listFrom       int // the first device that is shown
	mapTop         int
	mapRows        int
	mapWidth       int
	eventRows      int
}

const (
	minWidth, minHeight = 30, 12
	// Lines beside those of the list, the device, the map and the events: title, head of the list,
	// words, legend, head of the events, help.
	fixedRows = 5 + wordRows
	wordRows  = 2
	// tallRows is how high a window must be to break long texts.
	tallRows = 20
)

// layout divides the window.
func (m *Model) layout() layout {
	l := layout{list: 2, mapWidth: m.width}
	about := len(m.about(m.chosen()))
	rest := m.height - fixedRows - about
	l.listRows = min(len(m.devices), max(1, rest/3))
	rest -= l.listRows
	l.eventRows = max(rest/3, 0)
	if rest < 4 {
		l.eventRows = 0
	}
	l.mapRows = max(rest-l.eventRows, 0)
	at := m.chosenIndex()
	l.listFrom = min(max(at-l.listRows/2, 0), max(len(m.devices)-l.listRows, 0))
	l.mapTop = l.list + l.listRows + about
	return l
}

// cells is how many cells the map has. A line has two rows of them, except with letters.
func (l *layout) cells(letters bool) uint64 {
	n := l.mapWidth * l.mapRows
	if !letters {
		n *= 2
	}
	return uint64(max(n, 1))
}

// View draws the screen.
func (m *Model) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen, v.MouseMode, v.WindowTitle = true, tea.MouseModeAllMotion, "ublk-remap top"
	return v
}

// screen is all lines of the window.
func (m *Model) screen() string {
	if m.width < minWidth || m.height < minHeight {
		return cut(fmt.Sprintf("too small: %dx%d at least; q ends", minWidth, minHeight), m.width)
	}
	if m.help {
		return m.helpText()
	}
	l := m.layout()
	lines := []string{m.title()}
	lines = append(lines, m.list(&l)...)
	if d := m.chosen(); d != nil {
		lines = append(lines, m.about(d)...)
		lines = append(lines, m.surface(d, &l)...)
		words := wrap(m.words(d, &l), m.width, wordRows)
		lines = append(lines, append(words, make([]string, wordRows-len(words))...)...)
		lines = append(lines, m.legend())
		lines = append(lines, m.events(d, &l)...)
	} else {
		lines = append(lines, "", "No device is served here, and none waits for its server.",
			"See: ublk-remap scan")
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:m.height-1], m.helpLine())
	return strings.Join(lines, "\n")
}

func (m *Model) title() string {
	bad := 0
	for _, d := range m.devices {
		if s, _ := d.state(m.now); s != control.StateLive || d.st.Action != "" {
			bad++
		}
	}
	text := fmt.Sprintf("ublk-remap top   %s   %d devices", m.now.Format(time.TimeOnly),
		len(m.devices))
	switch {
	case m.listErr != nil:
		text += "   the list is old: " + readable.Text(m.listErr.Error())
	case bad == 1:
		text += ", 1 needs attention"
	case bad > 1:
		text += fmt.Sprintf(", %d need attention", bad)
	}
	return bold.Render(fit(text, m.width))
}

// list draws the devices, with as many columns as fit.
func (m *Model) list(l *layout) []string {
	name := min(max(m.width-69, 10), 32)
	row := func(mark, a, b, c, d, e, f, g, h, i string) string {
		return cut(fmt.Sprintf("%s %s %s %s %9s %9s %7s %6s %5s %5s", mark, fit(a, name), fit(b, 7),
			c, d, e, f, g, h, i), m.width)
	}
	lines := []string{faint.Render(row(" ", "NAME", "DEVICE", fit("STATE", 11), "READ/S", "WRITE/S",
		"PENDING", "LOST", "SPARE", "SCRUB"))}
	for i := l.listFrom; i < l.listFrom+l.listRows; i++ {
		d := m.devices[i]
		mark := " "
		if d == m.chosen() {
			mark = ">"
		}
		state, text := d.state(m.now)
		text = stateStyle(state).Render(fit(readable.Text(text), 11))
		s, r := d.st, d.now()
		cells := []string{"-", "-", "-", "-", "-", "-"}
		if d.figures() {
			cells = []string{readable.Bytes(int64(r.read)), readable.Bytes(int64(r.write)),
				readable.Number(s.Pending), readable.Number(s.Lost),
				percent(s.Spare.Free, s.Spare.Total), scrubText(&s.Scrub)}
		}
		lines = append(lines, row(mark, readable.Text(s.Name),
			strings.TrimPrefix(readable.Text(s.Device), "/dev/"),
			text, cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]))
	}
	return lines
}

func scrubText(s *control.Scrub) string {
	if s.State == "idle" {
		return "idle"
	}
	return percent(s.Position, s.Total)
}

// about says in words how the chosen device is: its name, state, what to do and rates.
func (m *Model) about(d *device) []string {
	if d == nil {
		return nil
	}
	s := d.st
	name := fmt.Sprintf("%s (%s) on %s", readable.Text(s.Name), readable.Text(s.Device),
		readable.Text(s.Backing))
	if s.SizeBlocks > 0 {
		name += fmt.Sprintf(", %s", readable.Bytes(int64(s.SizeBlocks)*int64(s.BlockSize)))
	}
	state, text := d.state(m.now)
	reason := readable.Text(s.Reason)
	if since := d.late(m.now); since > 0 {
		reason = "its server has not answered for " + readable.Duration(since) +
			"; the figures are old, and whether I/O goes on is not known"
	}
	if reason == "" && state == control.StateLive {
		reason = "all is well"
	}
	next := "nothing"
	if s.Action != "" {
		next = readable.Text(s.Action)
	}
	rate := func(what string, of func(rates) float64, text string) string {
		values := make([]float64, len(d.history))
		for i, r := range d.history {
			values[i] = of(r)
		}
		return fmt.Sprintf("%s %s %s", what, sparkline(values, max((m.width-58)/3, 4)), text)
	}
	r := d.now()
	heals := fmt.Sprintf("%s (%s failed)", readable.Number(s.Heals.Writes+s.Heals.Reads),
		readable.Number(s.Heals.Failed))
	rows := 1
	if m.height >= tallRows {
		rows = 3
	}
	lines := []string{bold.Render(cut(name, m.width))}
	lines = append(lines, wrap(stateStyle(state).Render(readable.Text(text))+": "+reason, m.width,
		rows)...)
	lines = append(lines, wrap("next: "+next, m.width, rows)...)
	return append(lines,
		cut(rate("read", func(r rates) float64 { return r.read }, fit(readable.Rate(r.read), 11))+
			rate("write", func(r rates) float64 { return r.write },
				fit(readable.Rate(r.write), 11))+
			rate("heals", func(r rates) float64 { return r.heals }, heals), m.width))
}

// helpLine is the last line.
func (m *Model) helpLine() string {
	text := "q quit  tab device  arrows move  + - 0 zoom  n N next bad  m letters  ? help"
	return reverse.Render(fit(text, m.width))
}

func (m *Model) helpText() string {
	text := `ublk-remap top shows the devices of this host. It only reads.

tab, shift+tab      the next device, the one before; or click on it
arrows, h j k l     move the cursor on the map; the mouse does so too
pgup, pgdown        one screen of the map back, forward
home, end           start and end of the disk
+, -, wheel         zoom in, out, around the cursor
0                   the whole disk
n, N                the next bad place, the one before
m                   letters in place of half-blocks
?                   this help; any key leaves it
q, ctrl+c           quit

The map: X lost, P pending, S slow to read, R remapped, M metadata, + spare
units, D data that gave way to metadata, - read by a scrub, . not read yet.`
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = cut(lines[i], m.width)
	}
	return strings.Join(lines[:min(len(lines), m.height)], "\n")
}

// events draws what happened last, the newest at the bottom.
func (m *Model) events(d *device, l *layout) []string {
	if l.eventRows == 0 {
		return nil
	}
	lines := []string{faint.Render("what happened")}
	if d.eventsErr != nil && len(d.events) == 0 {
		return append(lines, cut("not known: "+readable.Text(d.eventsErr.Error()), m.width))
	}
	list := d.events
	if n := len(list) - l.eventRows; n > 0 {
		list = list[n:]
	}
	for i := range list {
		e := &list[i]
		text := fmt.Sprintf("%s  %-12s", e.Time.In(m.now.Location()).Format("01-02 15:04:05"),
			readable.Text(e.What))
		if e.HasBlock {
			text += fmt.Sprintf("  block %d", e.Block)
		}
		if e.Count > 1 {
			text += fmt.Sprintf(" +%d", e.Count)
		}
		if e.Text != "" {
			text += "  " + readable.Text(e.Text)
		}
		lines = append(lines, cut(text, m.width))
	}
	return lines
}
