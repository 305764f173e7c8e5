package main

import (
	"errors"
	"strings"
	"testing"
)

// TestReadReport: messages about a wait are passed on as they come. The last line says how the
// start ended. A server of an older version writes only that line.
func TestReadReport(t *testing.T) {
	var waited []string
	rep, err := readReport(strings.NewReader(`{"waiting":"a"}
{"waiting":"b"}
{"device":"/dev/ublkb1","pid":7}
{"waiting":"never read"}
`), func(what string) { waited = append(waited, what) })
	if err != nil || rep.Device != "/dev/ublkb1" || rep.PID != 7 ||
		strings.Join(waited, "") != "ab" {
		t.Errorf("%+v, %v, %q", rep, err, waited)
	}
	if rep, err := readReport(strings.NewReader(`{"error":"why","code":3}`), nil); err != nil ||
		rep.Error != "why" || rep.Code != 3 {
		t.Errorf("%+v, %v", rep, err)
	}
	for _, text := range []string{"", `{"waiting":"a"}` + "\n", "panic: oh\n",
		`{"device":"/dev/ub`} {
		if rep, err := readReport(strings.NewReader(text), nil); !errors.Is(err, errNoReport) {
			t.Errorf("%q: %+v, %v", text, rep, err)
		}
	}
}

func TestWithFlag(t *testing.T) {
	for _, c := range [][2]string{
		{"start x", "start x --f"}, {"--log-level info start x", "--log-level info start x --f"},
		{"start -- -x", "start --f -- -x"},
	} {
		args := strings.Fields(c[0])
		if got := strings.Join(withFlag(args, "--f"), " "); got != c[1] ||
			strings.Join(args, " ") != c[0] {
			t.Errorf("%q became %q", c[0], got)
		}
	}
}
