package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Record says what a server serves, or served until it died.
type Record struct {
	Name    string   `json:"name"`
	UUID    string   `json:"uuid"`
	ID      int      `json:"id"`     // N of /dev/ublkbN
	Device  string   `json:"device"` // /dev/ublkbN
	Backing string   `json:"backing"`
	Spares  []string `json:"spares"`
	PID     int      `json:"pid"`
	// PreviousPID is the server that this one took the device over from, 0 if
	// none: until the recovery is complete the kernel still names that one.
	PreviousPID int       `json:"previous_pid"`
	Started     time.Time `json:"started"`
	Queues      int       `json:"queues"`
	Depth       int       `json:"depth"`
	MaxIO       int       `json:"max_io"` // bytes
	BlockSize   int       `json:"block_size"`
	Blocks      uint64    `json:"blocks"`
	ZeroCopy    bool      `json:"zero_copy"`
	Recovery    bool      `json:"recovery"`
	Version     string    `json:"version"` // of the program
	// Error is what went wrong in an orderly stop; the device is gone then.
	Error string `json:"error,omitempty"`
}

// maxRecord bounds what is read of a record.
const maxRecord = 1 << 16

// Write makes the record visible, whole or not at all.
func (r *Record) Write() error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := RecordPath(r.Name)
	tmp, err := os.CreateTemp(filepath.Dir(path), ".record-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(append(b, '\n')); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Remove takes the record away. It is not an error if there is none.
func (r *Record) Remove() error {
	err := os.Remove(RecordPath(r.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadRecord reads the record of a device: ErrNotRunning if there is none,
// ErrRecord if it is not one.
func ReadRecord(name string) (*Record, error) { return readRecord(RecordPath(name)) }

func readRecord(path string) (*Record, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no record %s", ErrNotRunning, path)
	}
	if err != nil {
		return nil, err
	}
	if st.Size() > maxRecord {
		return nil, fmt.Errorf("%s: %w: %d bytes", path, ErrRecord, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrRecord, err)
	}
	if r.Name == "" || r.UUID == "" || r.ID < 0 || RecordPath(r.Name) != path {
		return nil, fmt.Errorf("%s: %w: it lacks a name, UUID or id", path, ErrRecord)
	}
	return &r, nil
}

// Records reads all records, by name. Those that cannot be understood are
// left out and told in the error, beside what could be read.
func Records() ([]*Record, error) {
	names, err := filepath.Glob(filepath.Join(Dir(), "*.json"))
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var all []*Record
	var bad []error
	for _, path := range names {
		if strings.HasPrefix(filepath.Base(path), ".") {
			continue
		}
		r, err := readRecord(path)
		switch {
		case errors.Is(err, ErrNotRunning): // gone since the directory was read
		case err != nil:
			bad = append(bad, err)
		default:
			all = append(all, r)
		}
	}
	return all, errors.Join(bad...)
}
