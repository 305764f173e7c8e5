package rig

import (
	"os"
	"syscall"
	"testing"
	"time"

	"ublkremap/internal/control"
)

// Status is what the tests use of `status --json`.
type Status struct {
	Device       string        `json:"device"`
	ID           int           `json:"id"`
	Name         string        `json:"name"`
	UUID         string        `json:"uuid"`
	State        control.State `json:"state"`
	Reason       string        `json:"reason"`
	Action       string        `json:"action"`
	WaitingSince *time.Time    `json:"waiting_since"`
	Backing      string        `json:"backing"`
	BlockSize    int64         `json:"block_size"`
	SizeBlocks   int64         `json:"size_blocks"`
	Spare        struct {
		Total   int64 `json:"total"`
		Used    int64 `json:"used"`
		Free    int64 `json:"free"`
		Devices []struct {
			Device string `json:"device"`
		} `json:"devices"`
	} `json:"spare"`
	Remaps  int64 `json:"remaps"`
	Pending int64 `json:"pending"`
	Lost    int64 `json:"lost"`
	Errors  struct {
		Read       int64 `json:"read"`
		Write      int64 `json:"write"`
		Flush      int64 `json:"flush"`
		Transport  int64 `json:"transport"`
		FailedFast int64 `json:"failed_fast"`
		NotNoted   int64 `json:"not_noted"`
	} `json:"errors"`
	Heals struct {
		Writes int64 `json:"writes"`
		Reads  int64 `json:"reads"`
		Failed int64 `json:"failed"`
	} `json:"heals"`
	IO struct {
		Reads      int64 `json:"reads"`
		Writes     int64 `json:"writes"`
		Flushes    int64 `json:"flushes"`
		Discards   int64 `json:"discards"`
		ReadBytes  int64 `json:"read_bytes"`
		WriteBytes int64 `json:"write_bytes"`
	} `json:"io"`
	Table    control.Table    `json:"table"`
	Requests control.Requests `json:"requests"`
	Metadata struct {
		Version  int   `json:"version"`
		Sequence int64 `json:"sequence"`
		Mirrors  []struct {
			Location string `json:"location"`
			State    string `json:"state"`
		} `json:"mirrors"`
		LogUsed int64 `json:"log_used"`
		LogSize int64 `json:"log_size"`
	} `json:"metadata"`
	Breaker struct {
		State  string `json:"state"`
		Reason string `json:"reason"`
	} `json:"breaker"`
	Features struct {
		ZeroCopy   bool `json:"zero_copy"`
		AutoBufReg bool `json:"auto_buf_reg"`
		BatchIO    bool `json:"batch_io"`
		Recovery   bool `json:"recovery"`
	} `json:"features"`
	ServerPID int `json:"server_pid"`
}

// StatusOf asks for the status of a device, by its path, name or number.
func StatusOf(t testing.TB, dev string) Status {
	t.Helper()
	var st Status
	Parse(t, Remap(t, "status", dev, "--json"), &st)
	return st
}

// Status asks for the set's status.
func (s *Set) Status(t testing.TB) Status {
	t.Helper()
	return StatusOf(t, s.Dev)
}

// Row is an element of `remap list --json`.
type Row struct {
	Block int64  `json:"block"`
	Count int64  `json:"count"`
	Spare *int64 `json:"spare"`
	State string `json:"state"`
	Cause string `json:"cause"`
	Time  string `json:"time"`
}

// Remaps lists the set's remaps.
func (s *Set) Remaps(t testing.TB) []Row {
	t.Helper()
	var rows []Row
	Parse(t, Remap(t, "remap", "list", s.Dev, "--json"), &rows)
	return rows
}

// Item is an element of `list --json`.
type Item struct {
	Device    string        `json:"device"`
	ID        int           `json:"id"`
	Name      string        `json:"name"`
	State     control.State `json:"state"`
	ServerPID int           `json:"server_pid"`
}

// List lists the devices that are here.
func List(t testing.TB) []Item {
	t.Helper()
	var items []Item
	Parse(t, Remap(t, "list", "--json"), &items)
	return items
}

// Kill sends SIGKILL to the server of a device, which stays, and returns its process id.
func Kill(t testing.TB, dev string) int {
	t.Helper()
	pid := StatusOf(t, dev).ServerPID
	if pid <= 1 || pid == os.Getpid() {
		t.Fatalf("server_pid is %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	return pid
}
