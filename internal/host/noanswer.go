package host

import (
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/internal/shell"
)

// noAnswerAdvice says what to do about a server that does not answer.
func noAnswerAdvice(r *control.Record) string {
	switch state := processState(r.PID); state {
	case 'T', 't':
		return fmt.Sprintf("process %d is stopped; let it go on: kill -CONT %d", r.PID, r.PID)
	case 'D':
		return fmt.Sprintf("process %d waits for its disk; see what the kernel says of %s (dmesg)",
			r.PID, shell.Quote(r.Backing))
	default:
		return fmt.Sprintf("wait for it; if process %d stays so, kill it, which does no harm to "+
			"data, and recover the device: kill -9 %d; %s", r.PID, r.PID,
			shell.Command("start", r.Name))
	}
}
