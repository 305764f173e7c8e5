package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/wholefile"
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
	// PIDNamespace is the number of the namespace that PID is of, 0 if that is not known.
	PIDNamespace uint64 `json:"pid_namespace,omitempty"`
	// PreviousPID is the dead server whose device this one has recovered, 0 if none. The kernel
	// names that server until the recovery is complete.
	PreviousPID int       `json:"previous_pid"`
	Started     time.Time `json:"started"`
	Queues      int       `json:"queues"`
	Depth       int       `json:"depth"`
	MaxIO       int       `json:"max_io"` // bytes
	BlockSize   int       `json:"block_size"`
	Blocks      uint64    `json:"blocks"`
	ZeroCopy    bool      `json:"zero_copy"`
	BatchIO     bool      `json:"batch_io"`
	Recovery    bool      `json:"recovery"`
	// Epoch is the epoch of the set while this server has it. The disk has no older epoch. 0: the
	// record was written by a version that did not note it.
	Epoch   uint64 `json:"epoch,omitempty"`
	Version string `json:"version"` // of the program
	// Options are the settings of the server that are not defaults, by the names of their flags.
	Options map[string]string `json:"options"`
	// RootStorage: the server was started for the root file system, and so is the one after it.
	RootStorage bool `json:"root_storage,omitempty"`
	// FlushUntold: a flush of a disk has failed, and the server left the device to another server
	// before it could tell a user. The next flush must fail.
	FlushUntold bool `json:"flush_untold,omitempty"`
	// Error is what went wrong in an orderly stop. The device no longer exists then.
	Error string `json:"error,omitempty"`
}

// maxRecord bounds how many bytes of a record are read.
const maxRecord = 1 << 16

// Write makes the record visible, either whole or not at all.
func (r *Record) Write() error {
	err := r.write()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w; make room in %s, which takes some KiB for each device", err, Dir())
	}
	return err
}

func (r *Record) write() error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return wholefile.ReplaceInMemory(RecordPath(r.Name), ".record-*",
		func(w io.Writer) error { _, err := w.Write(append(b, '\n')); return err })
}

// Remove removes the record. It is not an error if there is none.
func (r *Record) Remove() error {
	err := os.Remove(RecordPath(r.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadRecord reads the record of a device. The error is ErrNotRunning if there is none, ErrRecord
// if the file is not a record, ErrRefused if the directory is not trusted.
func ReadRecord(name string) (*Record, error) { return readRecord(RecordPath(name)) }

func readRecord(path string) (*Record, error) {
	f, err := open(path, os.O_RDONLY)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: no record %s", ErrNotRunning, path)
	case errors.Is(err, ErrRefused) && trust(filepath.Dir(path)) == nil:
		return nil, fmt.Errorf("%w: %v", ErrRecord, err) // only this one cannot be used
	case err != nil:
		return nil, err
	}
	b, err := readInTime(f, recordTimeout)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r, err := decodeRecord(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if RecordPath(r.Name) != path {
		return nil, fmt.Errorf("%s: %w: it is of %q", path, ErrRecord, r.Name)
	}
	return r, nil
}

// recordTimeout is how long a read of a record may take. The record lies in memory, but that may
// have been swapped out, perhaps to the very device that the record is about and that waits for a
// server.
const recordTimeout = 3 * time.Second

// stuck holds the files whose read took too long and has not ended.
var stuck sync.Map // path to struct{}

// readInTime reads a file and closes it. If that takes too long the read continues by itself, and
// the error is ErrRecord. Later calls return that error at once until the read has ended. The tag
// of the device still identifies it.
func readInTime(f *os.File, timeout time.Duration) ([]byte, error) {
	late := fmt.Errorf("%w: it cannot be read at the moment; the memory that it lies in may be "+
		"swapped out to a device without a server", ErrRecord)
	if _, waits := stuck.Load(f.Name()); waits {
		f.Close()
		return nil, late
	}
	type content struct {
		b   []byte
		err error
	}
	came := make(chan content, 1)
	go func() {
		b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
		f.Close()
		came <- content{b, err}
		stuck.Delete(f.Name()) // this order matters: see below
	}()
	select {
	case c := <-came:
		return c.b, c.err
	case <-time.After(timeout):
		stuck.Store(f.Name(), struct{}{})
		select {
		case c := <-came: // its content came before the read counted as stuck
			stuck.Delete(f.Name())
			return c.b, c.err
		default:
		}
		return nil, late
	}
}

// MaxID is the largest number of a ublk device. The kernel keeps minors in 20 bits.
const MaxID = 1<<20 - 1

// decodeRecord reads a record and checks that its contents can be used: its numbers are in range,
// and its device is the one of its number. The error is ErrRecord.
func decodeRecord(b []byte) (*Record, error) {
	if len(b) > maxRecord {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrRecord, maxRecord)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	var what string
	switch {
	case r.Name == "":
		what = "it lacks a name"
	case r.UUID == "":
		what = "it lacks a UUID"
	case r.ID < 0 || r.ID > MaxID:
		what = fmt.Sprintf("there is no device %d", r.ID)
	case r.Device != fmt.Sprintf("/dev/ublkb%d", r.ID):
		what = fmt.Sprintf("device %q is not that of number %d", r.Device, r.ID)
	case r.PID < 0 || r.PreviousPID < -1: // the kernel uses -1 for nobody
		what = "a process has a negative number"
	case r.BlockSize < 0 || r.BlockSize > 1<<16 || r.Blocks > 1<<63-1 || r.BlockSize > 0 &&
		r.Blocks > (1<<63-1)/uint64(r.BlockSize):
		what = fmt.Sprintf("it has %d blocks of %d bytes", r.Blocks, r.BlockSize)
	default:
		return &r, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrRecord, what)
}

// Records reads all records, by name. It leaves out those that cannot be understood. The error
// names them, and the others are returned with it. If the directory is not trusted the error is
// ErrRefused, and nothing is read.
func Records() ([]*Record, error) {
	if err := trust(Dir()); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(Dir()) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []*Record
	var bad []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		r, err := readRecord(filepath.Join(Dir(), e.Name()))
		switch {
		case errors.Is(err, ErrNotRunning): // removed since the directory was read
		case err != nil:
			bad = append(bad, err)
		default:
			all = append(all, r)
		}
	}
	return all, errors.Join(bad...)
}
