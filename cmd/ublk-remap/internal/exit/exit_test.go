package exit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

func TestCode(t *testing.T) {
	_, notThere := os.Open("/no/such/file")
	_, badSize := size.Parse("x")
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{syscall.EIO, 1},
		{context.DeadlineExceeded, 1},
		{control.ErrNotRunning, 1},
		{ErrUsage, 2},
		{badSize, 2},
		{&metadata.TooSmallError{}, 2},
		{ErrRefused, 3},
		{fmt.Errorf("/dev/sda: %w", blockdev.ErrBusy), 3},
		{metadata.ErrStale, 3},
		{metadata.ErrForeign, 3},
		{metadata.ErrBackupStale, 3},
		{metadata.ErrBackup, 6},
		{&set.DeviceError{Err: set.ErrUnfit}, 3},
		{&set.DeviceError{Err: metadata.ErrNotFound}, 4},
		{control.ErrOwned, 3},
		{notThere, 4},
		{metadata.ErrNotFound, 4},
		{ErrNotFound, 4},
		{ublk.ErrNoDriver, 5},
		{&ublk.UnsupportedFeatureError{Name: "zero copy"}, 5},
		{metadata.ErrUnsupported, 5},
		{blockdev.ErrNoDirectIO, 5},
		{metadata.ErrDamaged, 6},
		{fmt.Errorf("%w: %w", metadata.ErrDamaged, metadata.ErrPath), 1}, // nothing is known to be
		{fmt.Errorf("%w: %w", ErrRefused, metadata.ErrDamaged), 6},
		{fmt.Errorf("server: %w", &Error{Code: 6, Text: "x"}), 6},
	} {
		if got := Code(fmt.Errorf("wrapped: %w", c.err)); c.err != nil && got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
		if got := Code(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

func TestLine(t *testing.T) {
	err := errors.Join(fmt.Errorf("/dev/sda: %w: mounted on /srv", blockdev.ErrBusy),
		errors.New("and\nmore"))
	if got, want := Line(err), "/dev/sda: device is in use: mounted on /srv; and; more; unmount "+
		"it or stop what uses it"; got != want {
		t.Errorf("got %q", got)
	}
	if got, want := Line(&set.DeviceError{Path: "/dev/sdb", Err: metadata.ErrStale,
		What: "it was absent", Do: "attach the other one"}),
		"/dev/sdb: device is out of date: it was absent; attach the other one"; got != want {
		t.Errorf("got %q", got)
	}
	if got := Line(&Error{Code: 3, Text: "said"}); got != "said" {
		t.Errorf("got %q", got)
	}
}

// TestLineOf: the advice for a verb never names that verb.
func TestLineOf(t *testing.T) {
	for _, a := range advice {
		for _, verb := range []string{"create", "start", "status", "list", "doctor", "release",
			"metadata check", "metadata dump", "metadata repair", "metadata restore"} {
			line := LineOf(verb, fmt.Errorf("/dev/sda: %w", a.err))
			if strings.Contains(line, "ublk-remap "+verb) {
				t.Errorf("%s: %q", verb, line)
			}
		}
	}
	damaged := fmt.Errorf("/dev/sda: %w", metadata.ErrDamaged)
	if got := LineOf("start", damaged); !strings.Contains(got,
		"look with: ublk-remap metadata check") {
		t.Error(got)
	}
	if got := LineOf("metadata check", damaged); !strings.Contains(got,
		"ublk-remap metadata repair") {
		t.Error(got)
	}
}

// TestLineIsPrintable: whatever an error quotes, the line contains no commands for the terminal,
// and its length is bounded.
func TestLineIsPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain %s ü „x“":         "plain %s ü „x“",
		"a\x1b[2Jb":              `a\x1b[2Jb`,
		"tab\tbell\a":            `tab bell\a`,
		"bad \xff\xfe":           `bad \xff\xfe`,
		"c1 \u009b31m":           `c1 \u009b31m`,
		"rtl \u202egnp.exe":      `rtl \u202egnp.exe`,
		"line\u2028sep":          `line\u2028sep`,
		"nul\x00":                `nul\x00`,
		"a\nb\r\nc":              "a; b; c",
		"zero\u200bwidth\ufeff.": `zero\u200bwidth\ufeff.`,
	} {
		if got := Line(errors.New(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	long := Line(errors.New("/dev/" + strings.Repeat("ä", 100_000) + ": why; do this"))
	if len(long) > maxLine+10 || !strings.HasPrefix(long, "/dev/") ||
		!strings.HasSuffix(long, "; do this") || !utf8.ValidString(long) {
		t.Errorf("%d bytes", len(long))
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\x1b]0;x\a\xff\u202e\n")
	f.Fuzz(func(t *testing.T, s string) {
		line := Line(errors.New(s))
		if len(line) > maxLine+10 || !utf8.ValidString(line) {
			t.Fatalf("%q", line)
		}
		for _, r := range line {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q: %q", line, r)
			}
		}
	})
}

// A server that a service manager starts says whether a later try makes sense.
func TestSupervised(t *testing.T) {
	for _, c := range []struct {
		err   error
		waits bool
		want  int
	}{
		{nil, false, Done},
		{errors.New("x"), false, Failed},
		{config.ErrInvalid, false, Usage},
		{metadata.ErrNotFound, false, NotFound},
		{metadata.ErrDamaged, true, Damaged},
		{config.ErrRefused, false, Refused},
		{config.ErrRefused, true, Later},
		{metadata.ErrUnfinished, false, Refused},
		{&set.DeviceError{Err: set.ErrUnfit}, false, Refused},
		{&set.DeviceError{Err: metadata.ErrForeign}, false, Refused},
		{&set.DeviceError{Err: metadata.ErrStale}, false, Later}, // the newer copy can be detached
		{set.ErrAmbiguous, false, Later},
		{blockdev.ErrBusy, false, Later},
		{control.ErrOwned, false, Later},
		{&Error{Code: Refused, Text: "x"}, false, Later}, // of another process
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		got := Supervised(err, c.waits)
		if Code(got) != c.want {
			t.Errorf("%v, waits %v: %d, want %d", c.err, c.waits, Code(got), c.want)
		}
		if err != nil && LineOf("start", got) != LineOf("start", err) {
			t.Errorf("%q is not %q", LineOf("start", got), LineOf("start", err))
		}
	}
}

// systemd retries a unit's start for those exit codes for which it makes sense.
func TestUnitRetries(t *testing.T) {
	unit, err := os.ReadFile("../../../../packaging/systemd/ublk-remap@.service")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("\nRestartPreventExitStatus=%d %d %d %d\n", Usage, Refused, Unsupported,
		Damaged)
	if !strings.Contains(string(unit), want) || Later != 75 {
		t.Errorf("the unit has no line %q", want)
	}
}
