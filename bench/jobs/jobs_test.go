package jobs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAll(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, j := range all {
		size := fmt.Sprintf("%dk", j.BlockSize>>10)
		if j.BlockSize == 1<<20 {
			size = "1m"
		}
		want := fmt.Sprintf("%s-%s-d%d", j.Pattern, size, j.Depth)
		switch {
		case j.Miss:
			want = "miss-" + want
		case j.Sync:
			want = fmt.Sprintf("fsync-%s-d%d", size, j.Depth)
		}
		if j.Name != want {
			t.Errorf("%s.fio has the options of %s", j.Name, want)
		}
		if j.Parallel != (j.Random() && !j.Sync) {
			t.Errorf("%s: parallel %v", j.Name, j.Parallel)
		}
		seen[j.Name] = true
	}
	for _, want := range []string{"randread-4k-d1", "randread-4k-d32", "randread-4k-d128",
		"randwrite-4k-d1", "randwrite-4k-d32", "randwrite-4k-d128",
		"read-128k-d8", "write-128k-d8", "read-1m-d8", "write-1m-d8", "fsync-4k-d1",
		"miss-randread-4k-d32", "miss-randwrite-4k-d32"} {
		if !seen[want] {
			t.Errorf("no job %s", want)
		}
	}
}

// The figures depend on these common options. A change of them must be noticed.
func TestCommon(t *testing.T) {
	text, err := files.ReadFile("common.inc")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"filename=${FILENAME}", "allow_file_create=0", "direct=1",
		"size=${SIZE}", "time_based=1", "runtime=${RUNTIME}",
		"group_reporting=1", "lat_percentiles=1"} {
		if !strings.Contains(string(text), "\n"+want+"\n") && !strings.HasPrefix(string(text),
			want+"\n") {
			t.Errorf("common.inc lacks %s", want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "[global]\ninclude common.inc\n[j]\nrw=read\nbs=4k\niodepth=1\n"
	if _, err := parse("j", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"", strings.Replace(good, "include common.inc\n", "", 1), strings.Replace(good, "[j]",
			"[k]", 1), strings.Replace(good, "rw=read\n", "", 1),
		strings.Replace(good, "=read", "=trim", 1), strings.Replace(good, "bs=4k", "bs=x", 1),
		strings.Replace(good, "iodepth=1", "iodepth=0", 1),
		good + "direct=0\n", good + "ioengine=libaio\n", good + "word\n", "rw=read\n" + good,
	} {
		if j, err := parse("j", []byte(text)); !errors.Is(err, ErrFile) {
			t.Errorf("%q: %+v, %v", text, j, err)
		}
	}
}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	if err := Extract(dir); err != nil {
		t.Fatal(err)
	}
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range all {
		if _, err := os.Stat(filepath.Join(dir, j.Name+".fio")); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "common.inc")); err != nil {
		t.Error(err)
	}
}
