package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"ublkremap/internal/alert/settings"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// Source tells what there is now. last is [Machine.LastEvent]. It ends with ctx.
type Source func(ctx context.Context, last func(uuid string) (EventPlace, bool)) Round

// Monitor tells of alerts.
type Monitor struct {
	settings *settings.Settings
	source   Source
	log      *slog.Logger
	host     string

	ways       []Way
	takers     []NoticeWay
	dispatcher *Dispatcher

	mu      sync.Mutex
	machine *Machine
	saver   *saver
}

// roundTime is how long a round may take: each server has its own limit, so this is for a source
// that hangs itself.
const roundTime = time.Minute

// Ways returns the ways that the settings ask for. Hooks tell log what they print.
func Ways(s *settings.Settings, log *slog.Logger) ([]Way, []NoticeWay, error) {
	var ways []Way
	if len(s.MailTo) > 0 {
		ways = append(ways, &Mail{Sendmail: s.Sendmail, From: s.MailFrom, To: s.MailTo})
	}
	if len(s.Command) > 0 {
		ways = append(ways, &Command{Args: s.Command})
	}
	if s.Webhook != "" {
		w, err := NewWebhook(s.Webhook, s.WebhookToken, s.WebhookCA)
		if err != nil {
			return nil, nil, fmt.Errorf("webhook: %w", err)
		}
		ways = append(ways, w)
	}
	takers := []NoticeWay{&Hooks{Dir: s.Hooks, Named: s.Hooks != settings.New().Hooks,
		Limit: s.HookTime, Log: log}}
	if j := NewJournal(); j != nil && s.Journal == "on" {
		takers = append(takers, j)
	}
	return ways, takers, nil
}

// New returns a Monitor.
func New(s *settings.Settings, source Source, log *slog.Logger) (*Monitor, error) {
	ways, takers, err := Ways(s, log)
	if err != nil {
		return nil, err
	}
	return &Monitor{settings: s, source: source, log: log, host: Hostname(), ways: ways,
		takers: takers}, nil
}

// Hostname is how this host is called in alerts.
func Hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "this host"
	}
	return readable.Text(name)
}

// Counts returns what each way has done; nil before the monitor runs.
func (m *Monitor) Counts() map[string]Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dispatcher == nil {
		return nil
	}
	return m.dispatcher.Counts()
}

// Run tells of alerts until ctx ends. If another monitor does so the error is ErrRuns.
func (m *Monitor) Run(ctx context.Context) error {
	locked, err := lock()
	if err != nil {
		return err
	}
	defer locked.Close()
	dir := settings.StateDir()
	state, err := LoadState(dir)
	switch {
	case errors.Is(err, ErrStateSlow):
		m.log.Warn("what was told of before is not known", "error", err.Error())
	case err != nil:
		m.log.Warn("what was told of before is not known; it begins anew", "error",
			outputLine(err.Error()))
	}
	unsent := state.Unsent
	m.mu.Lock()
	m.machine = NewMachine(state, Options{Host: m.host, Digest: m.settings.Digest,
		Repeat: m.settings.Repeat})
	m.dispatcher = NewDispatcher(m.host, m.log, m.ways, m.takers, unsent)
	m.saver = newSaver(dir, m.saved)
	m.mu.Unlock()
	socket, err := m.listen()
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	running.Go(m.check) // a file system that does not answer keeps nobody
	running.Go(func() { m.dispatcher.Run(ctx, m.ways, m.takers) })
	running.Go(func() { m.answer(ctx, socket) })
	m.rounds(ctx, m.take)
	running.Wait()
	m.save()
	m.saver.close()
	return nil
}

// check logs which ways would not bring an alert, so that this is known before there is one.
func (m *Monitor) check() {
	try := func(name string, way any) {
		c, ok := way.(Checker)
		if !ok {
			return
		}
		if err := c.Check(); err != nil {
			m.log.Warn("alerts could not be brought by this way; see: ublk-remap alerts test",
				"way", name, "error", outputLine(err.Error()))
		}
	}
	for _, w := range m.ways {
		try(w.Name(), w)
	}
	for _, w := range m.takers {
		try(w.Name(), w)
	}
}

// saved logs what became of writing the state.
func (m *Monitor) saved(err error) {
	if err != nil {
		m.log.Warn("what was told cannot be noted, so it may be told again after a restart",
			"error", err.Error())
		return
	}
	m.log.Info("what was told can be noted again")
}

// Watch judges the devices as Run does until ctx ends, and tells nobody. It remembers nothing of
// what was before.
func (m *Monitor) Watch(ctx context.Context) {
	m.mu.Lock()
	m.machine = NewMachine(NewState(), Options{Host: m.host})
	m.mu.Unlock()
	m.rounds(ctx, func(r *Round) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.machine.Step(r)
	})
}

// AlertsOf returns the alerts about a device that are there, the most urgent first; nil if the
// monitor does not run.
func (m *Monitor) AlertsOf(st *control.Status) []control.Alert {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.machine == nil {
		return nil
	}
	all := []control.Alert{}
	if s := m.machine.State.Sets[keyOf(&Device{Status: st})]; s != nil {
		for _, l := range s.listed() {
			all = append(all, l.Alert)
		}
	}
	return all
}

// rounds looks at all devices again and again.
func (m *Monitor) rounds(ctx context.Context, take func(*Round)) {
	for {
		if r, ok := m.look(ctx); ok {
			take(&r)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(m.settings.Interval):
		}
	}
}

// look asks the source. A source that does not answer gives a round without devices.
func (m *Monitor) look(ctx context.Context) (Round, bool) {
	limited, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	came := make(chan Round, 1)
	go func() { came <- m.source(limited, m.lastEvent) }()
	select {
	case r := <-came:
		// What was cut off by the end of this program says nothing.
		return r, ctx.Err() == nil
	case <-time.After(roundTime + time.Second):
		return Round{Time: time.Now(), Err: errors.New("the devices are not listed in time")}, true
	case <-ctx.Done():
		return Round{}, false
	}
}

func (m *Monitor) lastEvent(uuid string) (EventPlace, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.machine.LastEvent(uuid)
}

// take tells of a round.
func (m *Monitor) take(r *Round) {
	m.mu.Lock()
	notices, messages := m.machine.Step(r)
	m.mu.Unlock()
	m.dispatcher.Bring(notices, messages)
	m.save()
}

// save has the state written.
func (m *Monitor) save() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.machine.State.Unsent = m.dispatcher.Unsent()
	m.saver.save(m.machine.State)
}
