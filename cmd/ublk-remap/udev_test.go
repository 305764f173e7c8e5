package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"ublkremap/metadata"
)

func TestDiskProperties(t *testing.T) {
	id := uuid.MustParse("0198b1f2-0000-7000-8000-000000000001")
	for _, tc := range []struct {
		name  string
		index uint8
		want  string
	}{
		{"data", 0, "NAME=data UUID ROLE=backing INSTANCE=data"},
		{"my-disk.2", 1, "NAME=my-disk.2 UUID ROLE=spare INSTANCE=my-disk.2"},
		{"a+b", 0, "NAME=a+b UUID ROLE=backing"},
		{"-x", 0, "NAME=-x UUID ROLE=backing"},
		// No link is made from text that is not one word, or not ASCII.
		{"ä", 0, "UUID ROLE=backing"},
		{"a\nUBLK_REMAP_ROLE=device", 0, "UUID ROLE=backing"},
		{"..", 0, "UUID ROLE=backing"},
	} {
		var out bytes.Buffer
		sb := &metadata.Superblock{Name: tc.name, UUID: id, DeviceIndex: tc.index}
		if err := udevPrint(&out, diskProperties(sb)); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(strings.Fields(out.String()), " ")
		got = strings.ReplaceAll(strings.ReplaceAll(got, "UBLK_REMAP_", ""), "="+id.String(), "")
		if got != tc.want {
			t.Errorf("%q: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// Nothing is printed about a disk that carries no set.
func TestUdevSaysNothing(t *testing.T) {
	t.Setenv("UBLK_REMAP_RUN", t.TempDir())
	blank := filepath.Join(t.TempDir(), "blank")
	if err := os.WriteFile(blank, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{blank, "/dev/null", "/nowhere", "/dev/ublkb7", "/dev/ublkb7p1"} {
		var out, errs bytes.Buffer
		code := run(context.Background(), []string{"udev", what},
			stdio{in: strings.NewReader(""), out: &out, err: &errs})
		if code != 0 || out.Len() > 0 || errs.Len() > 0 {
			t.Errorf("%s: code %d, %q, %q", what, code, out.String(), errs.String())
		}
	}
}
