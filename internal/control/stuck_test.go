package control

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRecordThatDoesNotCome: a record may be in memory that is swapped out to a device without a
// server. It must not block the start of that server.
func TestRecordThatDoesNotCome(t *testing.T) {
	t.Parallel()
	// A pipe that nobody writes to does not return data either.
	path := t.TempDir() + "/record"
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	writer := open()
	for range 2 {
		// The second call does not even wait.
		timeout := 50 * time.Millisecond
		if _, waits := stuck.Load(path); waits {
			timeout = time.Hour
		}
		if b, err := readInTime(open(), timeout); !errors.Is(err, ErrRecord) {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if _, err := writer.Write(make([]byte, maxRecord+1)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, waits := stuck.Load(path); !waits {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it came, and counts as stuck")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readInTime(open(), time.Minute); err != nil || string(b) != "{}" {
		t.Errorf("%q, %v", b, err)
	}
}
