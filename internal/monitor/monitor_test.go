package monitor

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ublkremap/internal/control"
)

var update = flag.Bool("update", false, "write testdata/metrics.prom anew")

// devices are one with a living server that has all figures, and one whose server is dead.
func devices(context.Context) ([]Device, error) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hist := func(buckets ...control.Bucket) control.Histogram {
		return control.Histogram{SumNS: 1_500_000_000, Buckets: buckets}
	}
	all := []*control.Status{
		{
			Device: "/dev/ublkb0", Name: "old \"disk\"", UUID: "5f0e", Backing: "/dev/sdb",
			State: control.StateDegraded, WaitingSince: &at, BlockSize: 512, SizeBlocks: 1 << 21,
			Spare: control.Spare{Total: 256, Used: 12, Free: 240}, Remaps: 11, Pending: 3, Lost: 1,
			Errors: control.Errors{Read: 7, Write: 6, Flush: 5, Transport: 4, FailedFast: 3,
				NotNoted: 2},
			Heals: control.Heals{Writes: 8, Reads: 9, Failed: 10},
			IO: control.IO{Reads: 100, Writes: 200, Flushes: 30, Discards: 4, ReadBytes: 409600,
				WriteBytes: 819200},
			Requests: control.Requests{UnderWay: 5, Most: 64, Slow: 2, SlowSince: &at},
			Metadata: control.Metadata{LogUsed: 4096, LogSize: 65536, BadSuperblocks: 1,
				Scrubbed: 2, Mirrors: []control.Mirror{{State: "good"}, {State: "rebuilding"}}},
			Table: &control.Table{Entries: 20, Max: 5000},
			Scrub: control.Scrub{State: "running", Position: 77, Total: 1 << 21,
				LastFinished: &at},
			Breaker: control.Breaker{State: "open"}, ServerPID: 42,
		},
		{Device: "/dev/ublkb1", Name: "dead", UUID: "77", Backing: "/srv/a\xff.img",
			State: control.StateFailed},
		{Device: "/dev/ublkb2", Name: "dead", State: control.StateFailed}, // a second of this name
		{Device: "/dev/ublkb3", Name: "two\nlines}\xff", State: control.StateFailed},
		// The same text for a label as the one before.
		{Device: "/dev/ublkb4", Name: "two\nlines}\xfe", State: control.StateFailed},
	}
	told := make([]Device, len(all))
	for i, st := range all {
		told[i].Status = st
	}
	told[1].Missing = 1
	told[0].Verdict = "watch"
	told[0].Latencies = &control.Latencies{Started: at, TookOver: true, TimedOneIn: 128,
		Requests: []control.RequestLatency{
			{Operation: "read", Path: "home", Histogram: hist(control.Bucket{Index: 0, Count: 1},
				control.Bucket{Index: 5, Count: 2}, control.Bucket{Index: 80, Count: 4})},
			{Operation: "write", Path: "heal",
				Histogram: hist(control.Bucket{Index: 113, Count: 3})},
		},
		Disks: []control.DiskLatency{{Disk: "spare", Operation: "flush",
			Histogram: hist(control.Bucket{Index: 40, Count: 9})}},
		Errors: []control.DiskErrors{
			{Disk: "backing", Operation: "read", Errno: 5, Cause: "medium", Count: 6},
			{Disk: "backing", Operation: "read", Errno: 0, Cause: "path", Count: 1},
			{Disk: "spare", Operation: "write", Errno: 4095, Cause: "path", Count: 2}},
		Depth: control.Depths{Sum: 40, Counts: []uint64{1, 0, 3, 7, 0}},
	}
	return told, nil
}

// varying are metrics whose values differ from run to run.
var varying = regexp.MustCompile(`^(\w+(?:scrape_seconds|last_answer_\w+\{.*\})) \S+\n`)

// scrape returns what a scrape of a handler gets, without the metrics of the process itself. What
// differs from run to run is 0.
func scrape(t *testing.T, source Source) string {
	t.Helper()
	h, err := Handler(source, "1.2.3", newAlerts(func() map[string]AlertCount {
		return map[string]AlertCount{"mail": {Sent: 3, Failed: 2, Dropped: 1}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	defer s.Close()
	r, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v: %s", r.StatusCode, err, body)
	}
	var own []string
	for line := range strings.Lines(string(body)) {
		if strings.Contains(line, namespace) {
			own = append(own, varying.ReplaceAllString(line, "$1 0\n"))
		}
	}
	return strings.Join(own, "")
}

func TestGolden(t *testing.T) {
	const file = "testdata/metrics.prom"
	got := scrape(t, devices)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the metrics are not those of %s (see -update):\n%s", file, got)
	}
}

// TestPromtool: Prometheus' own checks of the names and the HELP texts find nothing.
func TestPromtool(t *testing.T) {
	out, err := exec.Command("../../scripts/promtool").Output()
	if err != nil {
		t.Fatalf("scripts/promtool: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(out)), "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, devices))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNoList: if the devices cannot be listed, that is a metric, and those that are known are
// still told of.
func TestNoList(t *testing.T) {
	got := scrape(t, func(ctx context.Context) ([]Device, error) {
		all, _ := devices(ctx)
		return all[:1], errors.New("may not")
	})
	if !strings.Contains(got, "\nublk_remap_monitor_success 0\n") ||
		!strings.Contains(got, "\nublk_remap_monitor_devices 1\n") {
		t.Errorf("%s", got)
	}
}

func TestTextfile(t *testing.T) {
	dir := t.TempDir()
	if err := WriteTextfile(dir, devices); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, textfileName))
	if err != nil || !bytes.Contains(text, []byte(`ublk_remap_server_up{set="dead"} 0`)) {
		t.Errorf("%v: %s", err, text)
	}
	if err := WriteTextfile(filepath.Join(dir, "missing"), devices); err == nil {
		t.Error("a directory that is not there")
	}
}

// TestReadOnly: nothing but GET /metrics is answered.
func TestReadOnly(t *testing.T) {
	h, err := Handler(devices, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodPost, "/metrics", http.StatusMethodNotAllowed},
		{http.MethodDelete, "/metrics", http.StatusMethodNotAllowed},
		{http.MethodGet, "/v1/stop", http.StatusNotFound},
		{http.MethodGet, "/debug/pprof/", http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}
