package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

func TestSuccessorArgs(t *testing.T) {
	r := &control.Record{Name: "n", PID: 7, Backing: "/dev/sdb", Spares: []string{"/dev/sdc",
		"/dev/sdd"}}
	spares := []string{"--spare-device=/dev/sdc", "--spare-device=/dev/sdd", "--detached"}
	for _, c := range []struct {
		line string
		want []string // between the backing and the spare devices
		err  error
	}{
		{line: "start n --detached"},
		{line: "start ./disk --json --detached --spare-device x", want: nil},
		{line: "--log-level debug start --queues 3 sdb --zero-copy=off --batch-io on --detached",
			want: []string{"--batch-io=on", "--log-level=debug", "--queues=3", "--zero-copy=off"}},
		{line: "start --detached --isolate-time 1500ms --remap-rate 9 --take-over=6 --kill -- -odd",
			want: []string{"--isolate-time=1.5s", "--remap-rate=9"}},
		{line: "start sdb", err: exit.ErrRefused},
		{line: "start sdb --foreground", err: exit.ErrRefused},
		{line: "start sdb --detached --of-another-version=1", err: exit.ErrUnsupported},
		{line: "list", err: exit.ErrUnsupported},
		{line: "", err: exit.ErrUnsupported},
	} {
		got, _, err := successorArgs(strings.Fields(c.line), r, false)
		if !errors.Is(err, c.err) {
			t.Errorf("%q: %v, want %v", c.line, err, c.err)
		}
		want := slices.Concat([]string{"start", "/dev/sdb"}, c.want, spares)
		slices.Sort(want[2:])
		if slices.Sort(got[min(2, len(got)):]); c.err == nil && !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", c.line, got, want)
		}
	}
}
