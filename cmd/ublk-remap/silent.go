package main

import (
	"fmt"
	"os"
	"strings"

	"ublkremap/cmd/ublk-remap/internal/shell"
	"ublkremap/internal/control"
)

// silentAdvice says what to do about a server that has not answered.
func silentAdvice(r *control.Record) string {
	switch state := processState(r.PID); state {
	case 'T', 't':
		return fmt.Sprintf("process %d is stopped; let it go on: kill -CONT %d", r.PID, r.PID)
	case 'D':
		return fmt.Sprintf("process %d waits for its disk; see what the kernel says of %s (dmesg)",
			r.PID, shell.Quote(r.Backing))
	default:
		return fmt.Sprintf("wait for it; if process %d stays so, kill it, which does no harm to "+
			"data, and take the device over: kill -9 %d; %s", r.PID, r.PID,
			shell.Command("start", r.Name))
	}
}

// processState is the state of a process by proc_pid_stat(5), 0 if it cannot be seen.
func processState(pid int) byte {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	if !ok || rest == "" {
		return 0
	}
	return rest[0]
}
