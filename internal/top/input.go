package top

import (
	tea "charm.land/bubbletea/v2"
)

// key does what a key means, and reports whether it means the end.
func (m *Model) key(k string) (quit bool) {
	switch {
	case k == "q", k == "ctrl+c":
		return true
	case m.help:
		m.help = false
		return false
	}
	switch k {
	case "?":
		m.help = true
	case "tab":
		m.choose(m.chosenIndex() + 1)
	case "shift+tab":
		m.choose(m.chosenIndex() - 1)
	case "a":
		m.chooseBad(1)
	case "A":
		m.chooseBad(-1)
	case "m":
		m.letters = !m.letters || !m.halves()
	default:
		if d := m.chosen(); d != nil && !m.small() {
			m.mapKey(d, k)
		}
	}
	return false
}

// choose chooses the device of that index. Behind the last one the first follows.
func (m *Model) choose(i int) {
	if n := len(m.devices); n > 0 {
		m.picked = m.devices[(i+n)%n].st.Device
	}
}

// chooseBad chooses the next device that needs attention, or the one before.
func (m *Model) chooseBad(way int) {
	n, at := len(m.devices), m.chosenIndex()
	for i := 1; i <= n; i++ {
		if next := ((at+way*i)%n + n) % n; m.devices[next].bad(m.now) {
			m.choose(next)
			return
		}
	}
}

// mapKey does what a key means on the map.
func (m *Model) mapKey(d *device, k string) {
	s := m.span(d)
	row := int64(m.rowWidth())
	if k != "+" && k != "=" && k != "enter" {
		d.aimEnd = 0
	}
	switch k {
	case "left", "h":
		m.move(d, s, -1)
	case "right", "l":
		m.move(d, s, 1)
	case "up", "k":
		m.move(d, s, -row)
	case "down", "j":
		m.move(d, s, row)
	case "pgup":
		m.move(d, s, -int64(s.cells))
	case "pgdown":
		m.move(d, s, int64(s.cells))
	case "home", "g":
		m.place(d, s, 0)
	case "end", "G":
		m.place(d, s, d.total())
	case "+", "=", "enter":
		m.zoom(d, s, s.per/2)
	case "-":
		m.zoom(d, s, s.per*2)
	case "0":
		d.per, d.from = 0, 0
	case "n":
		m.nextBad(d, s, 1)
	case "N":
		m.nextBad(d, s, -1)
	}
}

// move moves the cursor by so many cells.
func (m *Model) move(d *device, s span, cells int64) {
	at := d.cur / s.per
	switch {
	case cells >= 0:
		m.place(d, s, (at+uint64(cells))*s.per)
	case uint64(-cells) > at:
		m.place(d, s, 0)
	default:
		m.place(d, s, (at-uint64(-cells))*s.per)
	}
}

// place puts the cursor on a block, and moves the part that is shown with it.
func (m *Model) place(d *device, s span, block uint64) {
	d.cur = min(block, max(d.total(), 1)-1)
	row := m.rowWidth() * s.per
	switch {
	case d.per == 0:
	case d.cur < s.from:
		d.from = d.cur - d.cur%s.per
		d.from -= min(d.from, row)
	case d.cur >= s.from+s.cells*s.per:
		d.from = d.cur - d.cur%s.per + row
		d.from -= min(d.from, s.cells*s.per)
	}
}

// zoom changes how many blocks a cell has. The cursor keeps its place on the screen, as far as the
// ends of the disk allow.
func (m *Model) zoom(d *device, s span, per uint64) {
	per = max(per, 1)
	cell := (d.cur - min(d.cur, s.from)) / s.per
	if start := s.from + cell*s.per; per >= s.per {
		d.aimEnd = 0
	} else if p := d.part(start, start+s.per); d.aimEnd == 0 && p.kind() <= kindMapped {
		d.aim, d.aimEnd = start, start+s.per
	}
	d.per = per
	d.from = d.cur/per*per - min(d.cur/per*per, cell*per)
	if now := m.span(d); now.per != per { // the whole disk is shown
		d.per, d.from = 0, 0
	}
}

// aimed moves the cursor to what the map was enlarged for, once the map is that of this size.
func (m *Model) aimed(d *device) {
	s := m.span(d)
	if d.aimEnd == 0 || d.surface == nil || d.surface.PerCell != s.per {
		return
	}
	best := d.aimEnd
	for _, c := range d.surface.Cells {
		if start := d.surface.From + c.Cell*s.per; start+s.per > d.aim {
			best = min(best, max(start, d.aim))
			break
		}
	}
	for _, r := range d.slow {
		if r.Block+r.Count > d.aim {
			best = min(best, max(r.Block, d.aim))
		}
	}
	if best < d.aimEnd {
		m.place(d, s, best)
	}
	d.aimEnd = 0
}

// nextBad moves the cursor to the next cell with something bad, or the one before.
func (m *Model) nextBad(d *device, s span, way int) {
	if d.surface == nil || d.surface.PerCell == 0 {
		return
	}
	var starts []uint64
	for _, c := range d.surface.Cells {
		starts = append(starts, d.surface.From+c.Cell*d.surface.PerCell)
	}
	best, found := uint64(0), false
	for _, r := range d.slow {
		starts = append(starts, r.Block)
	}
	for _, b := range starts {
		if way > 0 && b/s.per > d.cur/s.per && (!found || b < best) ||
			way < 0 && b/s.per < d.cur/s.per && (!found || b > best) {
			best, found = b, true
		}
	}
	if found {
		m.place(d, s, best)
	}
}

// mouse does what the mouse means: a click chooses a device, moving over the map moves the cursor,
// and the wheel zooms around it.
func (m *Model) mouse(msg tea.MouseMsg) {
	if m.help || m.small() {
		return
	}
	l, at := m.layout(), msg.Mouse()
	if _, click := msg.(tea.MouseClickMsg); click && at.Y >= l.list && at.Y < l.list+l.listRows {
		m.choose(l.listFrom + at.Y - l.list)
		return
	}
	d := m.chosen()
	if d == nil || at.Y < l.mapTop || at.Y >= l.mapTop+l.mapRows || at.X < 0 || at.X >= m.width {
		return
	}
	s := m.span(d)
	row := uint64(at.Y - l.mapTop)
	if !m.letters {
		row *= 2
	}
	d.cur = min(s.from+(row*m.rowWidth()+uint64(at.X))*s.per, max(d.total(), 1)-1)
	if _, wheel := msg.(tea.MouseWheelMsg); !wheel {
		return
	}
	switch at.Button {
	case tea.MouseWheelUp:
		m.zoom(d, s, s.per/2)
	case tea.MouseWheelDown:
		m.zoom(d, s, s.per*2)
	}
}
