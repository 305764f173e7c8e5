package exit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
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
		{control.ErrOwned, 3},
		{notThere, 4},
		{metadata.ErrNotFound, 4},
		{ErrNotFound, 4},
		{ublk.ErrNoDriver, 5},
		{&ublk.UnsupportedFeatureError{Name: "zero copy"}, 5},
		{metadata.ErrUnsupported, 5},
		{blockdev.ErrNoDirectIO, 5},
		{metadata.ErrDamaged, 6},
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
	err := errors.Join(fmt.Errorf("/dev/sda: %w: mounted on /srv", blockdev.ErrBusy), errors.New("and\nmore"))
	if got, want := Line(err), "/dev/sda: device is in use: mounted on /srv; and; more; unmount it or stop what uses it"; got != want {
		t.Errorf("got %q", got)
	}
	if got := Line(&Error{Code: 3, Text: "said"}); got != "said" {
		t.Errorf("got %q", got)
	}
}
