package fio

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for file, want := range map[string]Report{
		"randread.json": {Requests: 183773, IOPS: 365353.87674, Bandwidth: 1497010640,
			Latency: Latency{175212.832698, 49920, 5603328, 12386304}, User: 9.381238,
			System: 21.457086},
		"fsync.json": {Requests: 635, IOPS: 1267.46507, Bandwidth: 5191536,
			Latency: Latency{136808.513386, 96768, 1155072, 4620288},
			Sync:    &Latency{647078.817323, 234496, 4292608, 4882432}, System: 3.2},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", file, err, got, want)
		}
		// Warnings come first.
		if got, err = Parse(append([]byte("fio: this is odd\n"), text...)); err != nil ||
			!reflect.DeepEqual(got, want) {
			t.Errorf("%s after a warning: %v, %+v", file, err, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const side = `{"iops":10,"total_ios":5,"bw_bytes":1}`
	for _, text := range []string{
		"", "fio: no such device", "{", `{"jobs":[]}`, `{"jobs":[{}]}`,
		`{"jobs":[{"error":5,"read":` + side + `}]}`, `{"jobs":[{"total_err":1,"read":` + side +
			`}]}`,
		`{"jobs":[{"read":` + side + `,"write":` + side + `}]}`, `{"jobs":[{"read":` + side +
			`},{"read":` + side + `}]}`,
	} {
		if r, err := Parse([]byte(text)); !errors.Is(err, ErrReport) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}

// fio would make a regular file where a device is missing, and would measure a file as a fast disk.
func TestNotADevice(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ublkb0")
	p := Params{File: "x.fio", Device: file, Runtime: time.Second, Jobs: 1, Size: 1}
	if _, err := Run(t.Context(), p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir, "/dev/null"} {
		p.Device = path
		if _, err := Run(t.Context(), p); !errors.Is(err, ErrNotBlock) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 ||
		!strings.HasSuffix(left[0].Name(), "ublkb0") {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
