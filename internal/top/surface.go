package top

import (
	"fmt"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"ublkremap/internal/readable"
)

// span is a part of the map: cells of per blocks, from a block on.
type span struct{ from, per, cells uint64 }

// span returns the part of a device's map that the window shows.
func (m *Model) span(d *device) span {
	l := m.layout()
	cells := l.cells(m.letters)
	total := max(d.total(), 1)
	fit := (total-1)/cells + 1
	s := span{from: d.from, per: d.per, cells: cells}
	if s.per == 0 || s.per >= fit {
		return span{per: fit, cells: cells}
	}
	// The last cell is never beyond the end, unless all cells are not enough.
	s.from -= s.from % s.per
	if last := (total - 1) / s.per; last+1 > cells {
		s.from = min(s.from, (last+1-cells)*s.per)
	} else {
		s.from = 0
	}
	return s
}

// rowWidth is how many cells one cell row has.
func (m *Model) rowWidth() uint64 { return uint64(max(m.width, 1)) }

// surface draws the map.
func (m *Model) surface(d *device, l *layout) []string {
	s := m.span(d)
	total := d.total()
	kindAt := func(i uint64) kind {
		a := s.from + i*s.per
		if a >= total {
			return kindNone
		}
		p := d.part(a, min(a+s.per, total))
		return p.kind()
	}
	if !d.figures() || d.surface == nil {
		lines := make([]string, l.mapRows)
		if l.mapRows > 0 {
			lines[0] = faint.Render(cut(m.noSurface(d), m.width))
		}
		return lines
	}
	cursor := (d.cur - min(d.cur, s.from)) / s.per
	width := m.rowWidth()
	lines := make([]string, 0, l.mapRows)
	for row := range uint64(l.mapRows) {
		r := painter{can: m.can}
		for x := range width {
			if m.letters {
				i := row*width + x
				r.letter(kindAt(i), i == cursor)
				continue
			}
			up, down := 2*row*width+x, (2*row+1)*width+x
			r.half(kindAt(up), kindAt(down), up == cursor || down == cursor)
		}
		lines = append(lines, r.line())
	}
	return lines
}

// noSurface says why there is no map.
func (m *Model) noSurface(d *device) string {
	switch {
	case !d.figures():
		return "no map: no server tells of its blocks"
	case d.surfaceErr != nil:
		return "no map: " + readable.Text(d.surfaceErr.Error())
	}
	return "the map is being asked for"
}

// painter draws a line of cells. Neighbours that look alike are one text with one style.
type painter struct {
	can   Terminal
	b     strings.Builder
	text  strings.Builder
	style lipgloss.Style
	key   [3]int // of the style
}

func (p *painter) put(text string, key [3]int, style func() lipgloss.Style) {
	if p.text.Len() > 0 && key != p.key {
		p.flush()
	}
	if p.text.Len() == 0 {
		p.key, p.style = key, style()
	}
	p.text.WriteString(text)
}

func (p *painter) flush() {
	if p.text.Len() > 0 {
		p.b.WriteString(p.style.Render(p.text.String()))
		p.text.Reset()
	}
}

func (p *painter) line() string {
	p.flush()
	return p.b.String()
}

// letter draws one cell.
func (p *painter) letter(k kind, cursor bool) {
	p.put(looks[k].letter, [3]int{int(k), -1, asInt(cursor)}, func() lipgloss.Style {
		return p.can.colored(k).Reverse(cursor)
	})
}

// half draws two cells, one above the other. If one of them is bad the letter of the worse one is
// shown on its colour, so that nothing bad is told by colour alone.
func (p *painter) half(up, down kind, cursor bool) {
	key := [3]int{int(up), int(down), asInt(cursor)}
	switch {
	case up == kindNone:
		p.put(" ", key, func() lipgloss.Style { return lipgloss.NewStyle().Reverse(cursor) })
	case up == down && up < kindScrubbed, min(up, down) <= kindMapped:
		worst := min(up, down)
		p.put(looks[worst].letter, key, func() lipgloss.Style {
			return p.can.filled(worst).Reverse(cursor)
		})
	case up == down:
		p.put("█", key, func() lipgloss.Style { return p.can.colored(up).Reverse(cursor) })
	default:
		p.put("▀", key, func() lipgloss.Style {
			s := p.can.colored(up).Reverse(cursor)
			if down != kindNone {
				s = s.Background(p.can.of(looks[down].color))
			}
			return s
		})
	}
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// legend names what the map shows.
func (m *Model) legend() string {
	var parts []string
	for k := kindLost; k < kindNone; k++ {
		style := m.can.colored(k)
		if !m.letters && k < kindScrubbed {
			style = m.can.filled(k)
		}
		mark := looks[k].letter
		if !m.letters && k >= kindScrubbed {
			mark = "█"
		}
		part := style.Render(mark) + " " + looks[k].name
		if ansi.StringWidth(strings.Join(append(parts, part), " ")) > m.width {
			break
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " ")
}

// words says what is under the cursor.
func (m *Model) words(d *device, l *layout) string {
	if !d.figures() || d.surface == nil || l.mapRows == 0 {
		return ""
	}
	s := m.span(d)
	total := d.total()
	a := s.from + (d.cur-min(d.cur, s.from))/s.per*s.per
	b := min(a+s.per, total)
	bs := uint64(d.st.BlockSize)
	text := fmt.Sprintf("block %s", readable.Number(a))
	if b > a+1 {
		text = fmt.Sprintf("blocks %s to %s", readable.Number(a), readable.Number(b-1))
	}
	text += fmt.Sprintf(" (%s at %s): ", readable.Bytes(int64((b-a)*bs)),
		readable.Bytes(int64(a*bs)))
	p := d.part(a, b)
	var is []string
	count := func(n uint64, what string) {
		if n > 0 {
			is = append(is, readable.Number(n)+" "+what)
		}
	}
	count(p.lost, "lost")
	count(p.pending, "pending")
	count(p.slow, "slow")
	count(p.mapped, "in the spare region")
	seen := map[string]bool{}
	for _, r := range p.regions {
		what := readable.Text(r.Kind)
		switch r.Kind {
		case "spare":
			what = fmt.Sprintf("spare region, %s of %s units used",
				readable.Number(d.st.Spare.Used), readable.Number(d.st.Spare.Total))
		case "mirror":
			what = "metadata mirror (" + readable.Text(r.State) + ")"
		case "head":
			what = "start of the disk, whose data lives elsewhere"
		case "displaced-head":
			what = "data of the disk's start"
		case "displaced-tail":
			what = "data of the disk's end"
		}
		if !seen[what] {
			seen[what] = true
			is = append(is, what)
		}
	}
	if len(is) == 0 {
		is = append(is, "as on the disk")
		if p.scrubbed {
			is = append(is, "read by a scrub")
		}
	}
	return text + strings.Join(is, ", ")
}
