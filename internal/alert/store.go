package alert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/alert/settings"
	"ublkremap/internal/control"
	"ublkremap/internal/wholefile"
)

const (
	stateFile = "alerts.json"
	// maxState bounds what is read of a state, in bytes.
	maxState = 64 << 20
	// loadTime is how long reading the state may take. It may lie on a device without a server.
	loadTime = 5 * time.Second
)

// ErrStateDamaged is returned for a state that cannot be used.
var ErrStateDamaged = errors.New("the state of the alerts is damaged")

// ErrStateSlow is returned for a state that cannot be read at the moment.
var ErrStateSlow = errors.New("the state of the alerts cannot be read at the moment")

// LoadState reads the state of a directory. If there is none it is a new one. With an error it is a
// new one too.
func LoadState(dir string) (*State, error) {
	type loaded struct {
		s   *State
		err error
	}
	came := make(chan loaded, 1)
	go func() {
		s, err := loadState(filepath.Join(dir, stateFile))
		came <- loaded{s, err}
	}()
	select {
	case l := <-came:
		return l.s, l.err
	case <-time.After(loadTime):
		return NewState(), fmt.Errorf("%s: %w", dir, ErrStateSlow)
	}
}

func loadState(path string) (*State, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxState {
		return NewState(), fmt.Errorf("%s: %w: it has %d bytes", path, ErrStateDamaged, st.Size())
	}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return NewState(), nil
	case err != nil:
		return NewState(), err
	}
	s := NewState()
	if err := json.Unmarshal(b, s); err != nil {
		return NewState(), fmt.Errorf("%s: %w: %w", path, ErrStateDamaged, err)
	}
	if err := s.check(); err != nil {
		return NewState(), fmt.Errorf("%s: %w: %w", path, ErrStateDamaged, err)
	}
	return s, nil
}

// check looks whether a Machine can go on from the state.
func (s *State) check() error {
	if s.Version != stateVersion {
		return fmt.Errorf("it has the version %d, want %d", s.Version, stateVersion)
	}
	if s.Sets == nil {
		s.Sets = map[string]*setMemory{}
	}
	for _, m := range append(slices.Collect(maps.Values(s.Sets)), &s.Host) {
		if m == nil {
			return errors.New("a device is null")
		}
		if m.Alerts == nil {
			m.Alerts = map[string]*Alert{}
		}
		for name, a := range m.Alerts {
			if a == nil || a.Returns < 0 || a.Returns > maxReturns {
				return fmt.Errorf("its alert %q makes no sense", name)
			}
		}
	}
	for _, n := range s.Outbox.Waiting {
		if n == nil || KindOf(n.Kind) == nil {
			return errors.New("a notice that waits is of no kind")
		}
	}
	for way, all := range s.Unsent {
		for _, m := range all {
			if m == nil || !m.whole() {
				return fmt.Errorf("a message that waits for %s makes no sense", way)
			}
		}
	}
	return nil
}

// whole reports whether a message can be sent.
func (m *Message) whole() bool {
	for _, n := range m.Notices {
		if n == nil || KindOf(n.Kind) == nil {
			return false
		}
	}
	return len(m.Notices) > 0
}

// SaveState writes the state of a directory, whole and durable or not at all. It makes the
// directory.
func SaveState(dir string, b []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return wholefile.Replace(filepath.Join(dir, stateFile), ".alerts-*",
		func(w io.Writer) error { _, err := w.Write(b); return err })
}

// saver writes states in the background: a disk that hangs, such as a device without a server,
// keeps no alert.
type saver struct {
	dir  string
	next chan []byte
	last []byte
	done chan struct{}
	log  func(error) // is told once that writing fails, and nil when it works again
}

func newSaver(dir string, log func(error)) *saver {
	s := &saver{dir: dir, next: make(chan []byte, 1), done: make(chan struct{}), log: log}
	go s.run()
	return s
}

func (s *saver) run() {
	defer close(s.done)
	failing := false
	for b := range s.next {
		err := SaveState(s.dir, b)
		if (err != nil) != failing {
			s.log(err)
		}
		failing = err != nil
	}
}

// save has a state written, if it is another one than the last. The newest one counts.
func (s *saver) save(state *State) {
	b, err := json.Marshal(state)
	if err != nil || bytes.Equal(b, s.last) {
		return
	}
	s.last = b
	select {
	case <-s.next: // an older one that was not begun
	default:
	}
	s.next <- b
}

// close waits a moment for what is being written.
func (s *saver) close() {
	close(s.next)
	select {
	case <-s.done:
	case <-time.After(loadTime):
	}
}

// lockPath is locked by the monitor that tells of alerts. It is in memory, where nothing hangs.
func lockPath() string { return filepath.Join(control.Dir(), ".alerts.lock") }

// ErrRuns is returned if another monitor tells of alerts.
var ErrRuns = errors.New("another monitor tells of alerts already")

// lock makes this process the one that tells of alerts, until the file is closed.
func lock() (*os.File, error) {
	if err := control.MakeDir(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(lockPath(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrRuns
		}
		return nil, err
	}
	return f, nil
}

// AcknowledgeStopped is [Machine.Acknowledge] while no monitor runs.
func AcknowledgeStopped(set string, kinds []string) (int, error) {
	locked, err := lock()
	if err != nil {
		return 0, err
	}
	defer locked.Close()
	state, err := LoadState(settings.StateDir())
	if err != nil {
		return 0, err
	}
	n, err := NewMachine(state, Options{Host: Hostname()}).Acknowledge(set, kinds, time.Now())
	if err != nil {
		return 0, err
	}
	b, err := json.Marshal(state)
	if err != nil {
		return 0, err
	}
	return n, SaveState(settings.StateDir(), b)
}
