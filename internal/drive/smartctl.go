package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"ublkremap/internal/program"
)

// limits are the times of the SCT error recovery control of a drive, in tenths of a second as it
// counts them. 0: no limit.
type limits struct {
	Read  int `json:"read"`
	Write int `json:"write"`
}

// atMost returns the limits that are no longer than n.
func (l limits) atMost(n int) limits {
	if l.Read == 0 || l.Read > n {
		l.Read = n
	}
	if l.Write == 0 || l.Write > n {
		l.Write = n
	}
	return l
}

var (
	// errNoControl is returned for a drive that has no SCT error recovery control.
	errNoControl = errors.New("the drive has no error recovery control (SCT ERC)")
	// errNoSmartctl is returned if the program is not installed.
	errNoSmartctl = errors.New("smartctl is not installed (package smartmontools)")
)

// answer is the part of the output of smartctl --json that is used. smartctl.exit_status is that of
// smartctl(8), EXIT STATUS. A drive without the control has no ata_sct_erc. A limit that is off has
// no deciseconds.
type answer struct {
	Smartctl struct {
		ExitStatus *int `json:"exit_status"`
		Messages   []struct {
			String   string `json:"string"`
			Severity string `json:"severity"`
		} `json:"messages"`
	} `json:"smartctl"`
	ERC *struct {
		Read  ercTime `json:"read"`
		Write ercTime `json:"write"`
	} `json:"ata_sct_erc"`
}

type ercTime struct {
	Enabled     bool `json:"enabled"`
	Deciseconds int  `json:"deciseconds"`
}

func (t ercTime) limit() int {
	if !t.Enabled {
		return 0
	}
	return t.Deciseconds
}

// failures are the bits of the exit status that say that smartctl itself failed: the command line
// or the kind of disk, opening the disk, or a command to it. The other bits are about the disk's
// health.
const failures = 1 | 2 | 4

// decode reads the limits from smartctl's output. The error is errNoControl if there are none.
func decode(output []byte) (limits, error) {
	var a answer
	if err := json.Unmarshal(output, &a); err != nil || a.Smartctl.ExitStatus == nil {
		return limits{}, errors.New("smartctl gives no JSON; it is older than 7.0, or another " +
			"program")
	}
	if *a.Smartctl.ExitStatus&failures != 0 {
		said := fmt.Sprintf("exit status %d", *a.Smartctl.ExitStatus)
		for _, m := range a.Smartctl.Messages {
			if m.Severity == "error" {
				said = strings.Join(strings.Fields(m.String), " ")
				break
			}
		}
		return limits{}, fmt.Errorf("smartctl: %s", said)
	}
	if a.ERC == nil {
		return limits{}, errNoControl
	}
	l := limits{a.ERC.Read.limit(), a.ERC.Write.limit()}
	if l.Read < 0 || l.Write < 0 {
		return limits{}, fmt.Errorf("smartctl: limits of %d and %d tenths of a second", l.Read,
			l.Write)
	}
	return l, nil
}

// get asks for a drive's limits.
func (h *Host) get(ctx context.Context, path string) (limits, error) {
	return h.smartctl(ctx, "scterc", path)
}

// set sets the limits, and returns the limits that the drive then has.
func (h *Host) set(ctx context.Context, path string, l limits) (limits, error) {
	now, err := h.smartctl(ctx, fmt.Sprintf("scterc,%d,%d", l.Read, l.Write), path)
	if err != nil {
		return now, err
	}
	// Some drives report success and keep another value.
	if now, err = h.get(ctx, path); err == nil && now != l {
		err = errors.New("the drive does not take the limit")
	}
	return now, err
}

// most is how much output is read. Usually there is 1 KiB.
const most = 1 << 20

// smartctl asks for a log, or sets what it holds, and returns the limits that the answer has.
func (h *Host) smartctl(ctx context.Context, log, path string) (limits, error) {
	out, err := h.ask(ctx, h.wait, "--json", "-l", log, path)
	if err != nil {
		return limits{}, err
	}
	return decode(out)
}

// ask runs smartctl and returns what it prints. Its exit status is in that. ask returns after this
// time at the latest, even if the program hangs in a call to the disk and cannot be ended.
func (h *Host) ask(ctx context.Context, wait time.Duration, args ...string) ([]byte, error) {
	path, err := program.Find(h.smart)
	if err != nil {
		return nil, errNoSmartctl
	}
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	go func() {
		out := program.Keep(most)
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdout = out
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || !exit.Exited()) {
			done <- result{nil, fmt.Errorf("%s: %w", path, err)}
			return
		}
		done <- result{out.Bytes(), nil}
	}()
	late := fmt.Errorf("smartctl has not answered for %s", wait)
	select {
	case r := <-done:
		if ctx.Err() != nil && r.err != nil {
			return nil, late
		}
		return r.out, r.err
	case <-ctx.Done():
		return nil, late
	}
}
