package top

import (
	"context"
	"sort"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"ublkremap/internal/control"
	"ublkremap/internal/recorder"
)

const (
	tick        = time.Second
	askLimit    = 10 * time.Second
	surfaceKeep = 10 * time.Second // how old a surface may be if nothing tells of a change
	slowEvery   = 5 * time.Second
)

// Model is the state of the screen.
type Model struct {
	ctx     context.Context
	src     Source
	now     time.Time // of the last tick
	clock   func() time.Time
	can     Terminal
	letters bool
	help    bool
	tick    tea.Cmd // the next tick
	drawn   string  // the last screen
	kept    bool    // it can be shown again

	width, height int
	devices       []*device // by number
	picked        string    // path of the chosen one
	listAsked     bool
	listErr       error
}

// New returns the model of a screen that ends with ctx, on a terminal that can show this.
func New(ctx context.Context, src Source, clock func() time.Time, can Terminal) *Model {
	m := &Model{ctx: ctx, src: src, clock: clock, now: clock(), can: can,
		tick: func() tea.Msg { time.Sleep(tick); return tickMsg{} }}
	m.letters = !m.halves()
	return m
}

// halves reports whether the map can be drawn with half-blocks: they are told apart by colours.
func (m *Model) halves() bool { return !m.can.ASCII && m.can.Colours >= colorprofile.ANSI }

// Messages: a tick, and answers.
type (
	tickMsg struct{}
	listMsg struct {
		list []Listed
		err  error
	}
	statusMsg struct {
		device string
		st     *control.Status
		err    error
	}
	surfaceMsg struct {
		device string
		of     surfaceKey
		s      *control.Surface
		err    error
	}
	slowMsg struct {
		device string
		list   []control.Range
		err    error
	}
	eventsMsg struct {
		device string
		list   []Event
		anew   bool // the list is all that there is
		place  recorder.Place
		err    error
	}
)

// Init begins to ask.
func (m *Model) Init() tea.Cmd { return m.ticked() }

// ticked asks all that is due, and for the next tick.
func (m *Model) ticked() tea.Cmd {
	m.now = m.clock()
	cmds := []tea.Cmd{m.tick}
	if !m.listAsked {
		m.listAsked = true
		cmds = append(cmds, m.ask(func(ctx context.Context) tea.Msg {
			list, err := m.src.List(ctx)
			return listMsg{list, err}
		}))
	}
	for _, d := range m.devices {
		cmds = append(cmds, m.askStatus(d))
	}
	if d := m.chosen(); d != nil {
		cmds = append(cmds, m.askSurface(d), m.askEvents(d), m.askSlow(d))
	}
	return tea.Batch(cmds...)
}

// ask makes a command of a question.
func (m *Model) ask(f func(context.Context) tea.Msg) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, askLimit)
		defer cancel()
		return f(ctx)
	}
}

func (m *Model) askStatus(d *device) tea.Cmd {
	if d.final || !d.asked.IsZero() {
		return nil
	}
	d.asked = m.now
	key, name := d.st.Device, d.st.Name
	return m.ask(func(ctx context.Context) tea.Msg {
		st, err := m.src.Status(ctx, name)
		return statusMsg{key, st, err}
	})
}

// askSurface asks for the part of the map that is shown, if it is not there or has changed.
func (m *Model) askSurface(d *device) tea.Cmd {
	if !d.figures() || d.surfaceAsked || m.width == 0 {
		return nil
	}
	s := m.span(d)
	want := surfaceKey{s.from, s.per, s.cells, d.st.Metadata.Sequence, d.st.Remaps, d.st.Pending,
		d.st.Lost, 0}
	if d.surfaceOf == want && m.now.Sub(d.surfaceAt) < surfaceKeep {
		return nil
	}
	d.surfaceAsked = true
	key, name, size := d.st.Device, d.st.Name, d.st.SizeBlocks
	return m.ask(func(ctx context.Context) tea.Msg {
		got, err := whole(ctx, m.src, name, s, size)
		return surfaceMsg{key, want, got, err}
	})
}

// whole asks for a part of the map in as many requests as it takes.
func whole(ctx context.Context, src Source, name string, s span,
	size uint64) (*control.Surface, error) {
	all := &control.Surface{From: s.from, PerCell: s.per, SizeBlocks: size}
	for done := uint64(0); done < s.cells; done += control.MaxSurface {
		n := min(s.cells-done, control.MaxSurface)
		from := s.from + done*s.per
		if from >= size && done > 0 {
			break
		}
		from = min(from, size-1) // all that is shown may lie behind the device
		got, err := src.Surface(ctx, name, from, from+n*s.per, int(n))
		if err != nil {
			return nil, err
		}
		all.BlockSize, all.SizeBlocks, all.Regions = got.BlockSize, got.SizeBlocks, got.Regions
		if from != s.from+done*s.per {
			break
		}
		for _, c := range got.Cells {
			c.Cell += done
			all.Cells = append(all.Cells, c)
		}
	}
	return all, nil
}

func (m *Model) askEvents(d *device) tea.Cmd {
	if d.eventsAsked || !d.figures() {
		return nil
	}
	d.eventsAsked = true
	key, name, place := d.st.Device, d.st.Name, d.place
	return m.ask(func(ctx context.Context) tea.Msg {
		list, anew, err := recorder.Since(ctx, func(ctx context.Context, from uint64) ([]Event,
			error) {
			return m.src.Events(ctx, name, from)
		}, placeOf, &place)
		return eventsMsg{key, list, anew, place, err}
	})
}

func placeOf(e *Event) recorder.Place {
	return recorder.Place{Number: e.Number, Micros: e.Time.UnixMicro()}
}

func (m *Model) askSlow(d *device) tea.Cmd {
	if d.slowAsked || !d.figures() || m.now.Sub(d.slowAt) < slowEvery {
		return nil
	}
	d.slowAsked = true
	key, name := d.st.Device, d.st.Name
	return m.ask(func(ctx context.Context) tea.Msg {
		list, err := m.src.Slow(ctx, name)
		return slowMsg{key, list, err}
	})
}

// Update takes a message in.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	// A host may have many devices, and the screen is drawn after each message. What one of those
	// that are not chosen answers is shown with the next tick.
	st, is := msg.(statusMsg)
	d := m.named(st.device)
	m.kept = m.kept && is && d != nil && d != m.chosen() && !d.answered.IsZero()
	return m.update(msg)
}

func (m *Model) update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tickMsg:
		return m, m.ticked()
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		if msg.String() == "ctrl+z" {
			return m, tea.Suspend
		} else if m.key(msg.String()) {
			return m, tea.Quit
		}
	case tea.MouseMsg:
		m.mouse(msg)
	case listMsg:
		m.listed(msg)
		return m, m.askNew()
	default:
		m.answered(msg)
	}
	if d := m.chosen(); d != nil {
		return m, m.askSurface(d)
	}
	return m, nil
}

// answered takes an answer about one device in.
func (m *Model) answered(msg tea.Msg) {
	switch msg := msg.(type) {
	case statusMsg:
		if d := m.named(msg.device); d != nil {
			if msg.err != nil {
				d.asked = time.Time{}
				d.st.State, d.st.Reason = control.StateUnreachable, msg.err.Error()
				break
			}
			d.answer(msg.st, m.clock())
		}
	case surfaceMsg:
		if d := m.named(msg.device); d != nil {
			d.surfaceAsked, d.surfaceErr, d.surfaceAt = false, msg.err, m.clock()
			d.surfaceOf = msg.of
			if msg.err == nil {
				d.surface = msg.s
				m.aimed(d)
			}
		}
	case slowMsg:
		if d := m.named(msg.device); d != nil {
			d.slowAsked, d.slowAt = false, m.clock()
			if msg.err == nil {
				d.slow = msg.list
			}
		}
	case eventsMsg:
		if d := m.named(msg.device); d != nil {
			d.eventsAsked, d.eventsErr = false, msg.err
			if msg.err == nil {
				d.addEvents(&msg)
			}
		}
	}
}

// listed takes a list of devices in. What is known of those that stay is kept.
func (m *Model) listed(msg listMsg) {
	m.listAsked, m.listErr = false, msg.err
	if msg.err != nil {
		return
	}
	devices := make([]*device, 0, len(msg.list))
	for _, l := range msg.list {
		d := m.named(l.Status.Device)
		if d == nil || d.st.UUID != l.Status.UUID {
			d = &device{st: l.Status}
		}
		if d.final = l.Asked; l.Asked {
			d.st, d.asked = l.Status, time.Time{}
		}
		devices = append(devices, d)
	}
	sort.SliceStable(devices, func(i, j int) bool { return devices[i].st.ID < devices[j].st.ID })
	m.devices = devices
	if m.chosen() == nil && len(devices) > 0 {
		m.picked = devices[0].st.Device
	}
}

// askNew asks about devices that nothing is known of.
func (m *Model) askNew() tea.Cmd {
	var cmds []tea.Cmd
	for _, d := range m.devices {
		if d.answered.IsZero() {
			cmds = append(cmds, m.askStatus(d))
		}
	}
	return tea.Batch(cmds...)
}

// named returns the device of that path, or nil. Names are not unique: a copy of a disk has the
// same one.
func (m *Model) named(path string) *device {
	for _, d := range m.devices {
		if d.st.Device == path {
			return d
		}
	}
	return nil
}

func (m *Model) chosen() *device { return m.named(m.picked) }

func (m *Model) chosenIndex() int {
	for i, d := range m.devices {
		if d.st.Device == m.picked {
			return i
		}
	}
	return 0
}
