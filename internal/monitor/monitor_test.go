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
	"strings"
	"testing"
	"time"

	"ublkremap/internal/control"
)

var update = flag.Bool("update", false, "write testdata/metrics.prom anew")

// devices are one with a living server that has all figures, and one whose server is dead.
func devices(context.Context) ([]*control.Status, error) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return []*control.Status{
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
	}, nil
}

// scrape returns what a scrape of a handler gets, without the metrics of the process itself.
func scrape(t *testing.T, source Source) string {
	t.Helper()
	h, err := Handler(source, "1.2.3")
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
		if strings.Contains(line, namespace) && !strings.Contains(line, "scrape_seconds ") {
			own = append(own, line)
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
	got := scrape(t, func(ctx context.Context) ([]*control.Status, error) {
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
	text, err := os.ReadFile(filepath.Join(dir, TextfileName))
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
