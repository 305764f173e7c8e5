package top

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

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
	// minWidth, minHeight are what a window needs to have a map.
	minWidth, minHeight = 40, 16
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
	l.listFrom = m.listFrom(l.listRows)
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
	if !m.kept {
		m.drawn, m.kept = m.screen(), true
	}
	v := tea.NewView(m.drawn)
	v.AltScreen, v.MouseMode, v.WindowTitle = true, tea.MouseModeAllMotion, "ublk-remap top"
	return v
}

// small reports whether the window has no room for a map.
func (m *Model) small() bool { return m.width < minWidth || m.height < minHeight }

// screen is all lines of the window.
func (m *Model) screen() string {
	switch {
	case m.width == 0 || m.height == 0: // the size is not known yet
		return ""
	case m.help:
		return m.helpText()
	case m.small():
		return m.smallScreen()
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
		lines = append(append(lines, ""), wrap(noDevice, m.width, 3)...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:m.height-1], m.helpLine())
	return m.can.text(strings.Join(lines, "\n"))
}

// smallScreen is the screen without a map: the devices with their states, and what is with the
// chosen one.
func (m *Model) smallScreen() string {
	l := layout{listRows: min(len(m.devices), max(1, (m.height-2)/2))}
	l.listFrom = m.listFrom(l.listRows)
	lines := []string{bold.Render(fit(m.counts(l.listRows), m.width))}
	if m.height < 3 {
		lines = nil
	}
	for i := l.listFrom; i < l.listFrom+l.listRows; i++ {
		d := m.devices[i]
		mark := " "
		if d == m.chosen() {
			mark = ">"
		}
		state, text := d.state(m.now)
		text = m.can.stateStyle(state).Render(readable.Text(text))
		name := max(m.width-2-1-ansi.StringWidth(text), min(m.width/2, 10))
		lines = append(lines, cut(mark+" "+fit(readable.Text(d.st.Name), name)+" "+text, m.width))
	}
	if d := m.chosen(); d != nil {
		state, reason, next := m.says(d)
		lines = append(lines, wrap(state+": "+reason, m.width, 3)...)
		lines = append(lines, wrap("next: "+next, m.width, 3)...)
	} else {
		lines = append(lines, wrap(noDevice, m.width, 3)...)
	}
	if most := max(m.height-1, 1); len(lines) >= most {
		lines = lines[:most]
	} else {
		lines = append(lines, make([]string, most-len(lines))...)
	}
	if m.height > 1 {
		lines = append(lines, reverse.Render(fit("q quit  tab device  a attention  ? help",
			m.width)))
	}
	return m.can.text(strings.Join(lines, "\n"))
}

const noDevice = "No device is served here, and none waits for its server. See: ublk-remap scan"

func (m *Model) title() string {
	l := m.layout()
	text := fmt.Sprintf("ublk-remap top   %s   %s", m.now.Format(time.TimeOnly),
		m.counts(l.listRows))
	if m.listErr != nil {
		text += "   the list is old: " + readable.Text(m.listErr.Error())
	}
	return bold.Render(fit(text, m.width))
}

// counts says how many devices there are, which of them are shown in so many rows, and how many
// need attention.
func (m *Model) counts(rows int) string {
	bad := 0
	for _, d := range m.devices {
		if d.bad(m.now) {
			bad++
		}
	}
	text := fmt.Sprintf("%d devices", len(m.devices))
	if len(m.devices) == 1 {
		text = "1 device"
	}
	if from := m.listFrom(rows); rows < len(m.devices) {
		text += fmt.Sprintf(" (%d-%d shown)", from+1, from+rows)
	}
	switch {
	case bad == 1:
		text += ", 1 needs attention"
	case bad > 1:
		text += fmt.Sprintf(", %d need attention", bad)
	}
	return text
}

// listFrom is the first device that is shown, if so many are.
func (m *Model) listFrom(rows int) int {
	return min(max(m.chosenIndex()-rows/2, 0), max(len(m.devices)-rows, 0))
}

// column is a column of figures of the list.
type column struct {
	name  string
	width int
	of    func(d *device) string
}

// columns are in the order in which they stand.
var columns = []column{
	{"READ/S", 9, func(d *device) string { return readable.Bytes(int64(d.now().read)) }},
	{"WRITE/S", 9, func(d *device) string { return readable.Bytes(int64(d.now().write)) }},
	{"PENDING", 7, func(d *device) string { return readable.Number(d.st.Pending) }},
	{"LOST", 6, func(d *device) string { return readable.Number(d.st.Lost) }},
	{"SPARE", 5, func(d *device) string { return percent(d.st.Spare.Free, d.st.Spare.Total) }},
	{"SCRUB", 5, func(d *device) string { return scrubText(&d.st.Scrub) }},
}

// A row of the list begins with a mark, the name, the device and the state.
const (
	deviceWidth = 7
	stateWidth  = 11
	nameWidth   = 10 // at least
)

// list draws the devices, with as many columns as fit. Rates go first.
func (m *Model) list(l *layout) []string {
	shown := columns
	width := func() int {
		w := len("> ") + 1 + deviceWidth + 1 + stateWidth
		for _, c := range shown {
			w += 1 + c.width
		}
		return w
	}
	for len(shown) > 0 && shown[0].name != "PENDING" && width()+nameWidth > m.width {
		shown = shown[1:]
	}
	for len(shown) > 0 && width()+nameWidth > m.width {
		shown = shown[:len(shown)-1]
	}
	name := min(max(m.width-width(), nameWidth), 32)
	row := func(mark, a, b, state string, cell func(c *column) string) string {
		text := mark + " " + fit(a, name) + " " + fit(b, deviceWidth) + " " + state
		for i := range shown {
			text += fmt.Sprintf(" %*s", shown[i].width, cell(&shown[i]))
		}
		return cut(text, m.width)
	}
	lines := []string{faint.Render(row(" ", "NAME", "DEVICE", fit("STATE", stateWidth),
		func(c *column) string { return c.name }))}
	for i := l.listFrom; i < l.listFrom+l.listRows; i++ {
		d := m.devices[i]
		mark := " "
		if d == m.chosen() {
			mark = ">"
		}
		state, text := d.state(m.now)
		text = m.can.stateStyle(state).Render(fit(readable.Text(text), stateWidth))
		lines = append(lines, row(mark, readable.Text(d.st.Name),
			strings.TrimPrefix(readable.Text(d.st.Device), "/dev/"), text,
			func(c *column) string {
				if !d.figures() {
					return "-"
				}
				return c.of(d)
			}))
	}
	return lines
}

func scrubText(s *control.Scrub) string {
	if s.State == "idle" {
		return "idle"
	}
	return percent(s.Position, s.Total)
}

// says is what is with a device in words: its state, the reason, and what to do next.
func (m *Model) says(d *device) (state, reason, next string) {
	of, text := d.state(m.now)
	state = m.can.stateStyle(of).Render(readable.Text(text))
	all := d.points(m.now)
	return state, readable.Text(all.Says()), readable.Text(cmp.Or(all.Next(), "nothing"))
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
	state, reason, next := m.says(d)
	lines = append(lines, wrap(state+": "+reason, m.width, rows)...)
	lines = append(lines, wrap("next: "+next, m.width, rows)...)
	if !d.figures() { // the rates are those of a server that has ended
		return lines
	}
	return append(lines,
		cut(rate("read", func(r rates) float64 { return r.read }, fit(readable.Rate(r.read), 11))+
			rate("write", func(r rates) float64 { return r.write },
				fit(readable.Rate(r.write), 11))+
			rate("heals", func(r rates) float64 { return r.heals }, heals), m.width))
}

// helpLine is the last line.
func (m *Model) helpLine() string {
	text := "q quit  tab device  a attention  arrows move  + - 0 zoom  n N next bad  ? help"
	return reverse.Render(fit(text, m.width))
}

func (m *Model) helpText() string {
	text := `ublk-remap top shows the devices of this host. It only reads.

tab, shift+tab      the next device, the one before; or click on it
a, A                the next device that needs attention, the one before
arrows, h j k l     move the cursor on the map; the mouse does so too
pgup, pgdown        one screen of the map back, forward
home, end           start and end of the disk
+, -, wheel         zoom in, out, around the cursor
0                   the whole disk
n, N                the next bad place, the one before
m                   letters in place of half-blocks
?                   this help; any key leaves it
q, ctrl+c; ctrl+z   quit; stop until fg

The map: X lost, P pending, S slow to read, R remapped, M metadata, + spare
units, D data that gave way to metadata, - read by a scrub, . not read yet.`
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = cut(lines[i], m.width)
	}
	return m.can.text(strings.Join(lines[:min(len(lines), m.height)], "\n"))
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
