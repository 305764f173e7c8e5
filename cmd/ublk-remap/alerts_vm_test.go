package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ublkremap/internal/config"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// told is what a test has been told by the ways of alerts.
type told struct {
	dir string
	url string

	mu     sync.Mutex
	posted []string // kind and event of each alert
}

// newTold makes stand-ins for all ways, and the monitor's file that names them. This test's own
// journal is not written to.
func newTold(t *testing.T) *told {
	w := &told{dir: t.TempDir()}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct {
			Alerts []struct{ Alert, Event string }
		}
		b, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(b, &m); err != nil {
			t.Errorf("%v: %s", err, b)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, a := range m.Alerts {
			w.posted = append(w.posted, a.Alert+" "+a.Event)
		}
	}))
	t.Cleanup(server.Close)
	// Guests have no umask, and what anybody could have written is not run.
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.dir, "etc")
	t.Setenv(config.DirEnv, dir)
	for name, text := range map[string]string{
		"sendmail":            "cat >>" + w.dir + "/mail",
		"command":             "cat >>" + w.dir + "/commanded",
		"etc/events.d/10-ran": `echo "$UBLK_REMAP_ALERT $UBLK_REMAP_EVENT" >>` + w.dir + "/hooks",
	} {
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.url = server.URL
	w.configure(t, "sendmail")
	return w
}

// configure writes the monitor's file. sendmail is the name of a program.
func (w *told) configure(t *testing.T, sendmail string) {
	t.Helper()
	if err := os.WriteFile(config.MonitorPath(), []byte(fmt.Sprintf(`mail-to = ["root"]
sendmail = "%s/%s"
command = ["%s/command"]
webhook = "%s"
journal = "off"
interval = "1s"
`, w.dir, sendmail, w.dir, w.url)), 0o644); err != nil {
		t.Fatal(err)
	}
	rig.Want(t, 0, "config", "check")
}

// wait waits until each way has told of an alert.
func (w *told) wait(t *testing.T, alert, event, sentence string) {
	t.Helper()
	rig.Until(t, alert+" "+event+" by all ways", func() bool {
		w.mu.Lock()
		posted := strings.Join(w.posted, "\n")
		w.mu.Unlock()
		return strings.Contains(posted, alert+" "+event) &&
			strings.Contains(w.read("hooks"), alert+" "+event) &&
			strings.Contains(w.read("mail"), sentence) &&
			strings.Contains(w.read("commanded"), sentence)
	})
}

func (w *told) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(w.dir, name))
	return strings.ReplaceAll(string(b), "=\n", "") // of quoted-printable
}

// TestAlerts: each way tells of what happens to a device, also of what happened while no monitor
// ran; what is acknowledged is quiet until it gets worse; a way that fails keeps none of the
// others.
func TestAlerts(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	ways := newTold(t)
	lower := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	rig.Want(t, 0, "create", disk.Path, "--name", "seen", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk.Path)
	const addr = "127.0.0.1:19948"
	start := func() *rig.Process {
		p := rig.Launch(t, vmtest.Binary(t), "monitor", "--listen", addr)
		rig.Await(t, "the monitor answers", func() error {
			if r := rig.Remap(t, "alerts", "list"); r.Stderr != "" || p.Ended() {
				return fmt.Errorf("%s\n%s", r, p.Result())
			}
			return nil
		})
		return p
	}
	monitor := start()
	if r := rig.Want(t, 0, "alerts", "test"); !strings.Contains(r.Stdout, "mail: ok") ||
		!strings.Contains(r.Stdout, "webhook: ok") || !strings.Contains(r.Stdout, "hooks: ok") {
		t.Error(r.Stdout)
	}
	ways.wait(t, "test", "raised", "This is a test")
	if r := rig.Want(t, 0, "alerts", "list"); r.Stdout != "no alert is there\n" {
		t.Error(r.Stdout)
	}
	rig.Want(t, rig.ExitNotFound, "alerts", "ack", "seen")
	rig.Want(t, rig.ExitUsage, "alerts", "ack", "seen", "nothing")
	rig.Want(t, rig.ExitUsage, "alerts", "frob")

	f := rig.Open(t, dev)
	defer f.Close()
	bad := func(units int64) {
		disk.Swap(t, vmtest.ErrorTable(t, lower, vmtest.Extent{Start: 40000, Count: 8 * units}))
		for off := int64(0); off < f.Size/2; off += 1 << 20 {
			for at := off; f.Read(rig.Aligned(1<<20), off) != nil && at < off+1<<20; at += 4096 {
				_ = f.Read(rig.Aligned(4096), at)
			}
		}
	}
	bad(1)
	ways.wait(t, "blocks-pending", "raised", "Blocks of seen do not read: ")
	if r := rig.Want(t, 0, "alerts", "list"); !strings.Contains(r.Stdout, "blocks-pending") {
		t.Error(r.Stdout)
	}
	rig.Want(t, 0, "alerts", "ack", "seen")

	// It gets worse while no monitor runs, and the acknowledgement is known to the next one.
	monitor.Kill(t)
	bad(3)
	if r := rig.Want(t, 0, "alerts", "list"); !strings.Contains(r.Stderr, "no monitor runs") ||
		!strings.Contains(r.Stdout, "blocks-pending") {
		t.Errorf("%s", r)
	}
	ways.configure(t, "missing")
	monitor = rig.Launch(t, vmtest.Binary(t), "monitor", "--listen", addr)
	rig.Until(t, "the hook runs though there is no sendmail", func() bool {
		return strings.Contains(ways.read("hooks"), "blocks-pending worse")
	})
	rig.Until(t, "the failure is counted", func() bool {
		r, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return strings.Contains(string(b), "\nublk_remap_alerts_failed_total{way=\"mail\"} 1\n") &&
			strings.Contains(string(b), "\nublk_remap_alerts_failed_total{way=\"webhook\"} 0\n")
	})
	// The next monitor brings what this one could not, and a write is the end of it.
	if err := monitor.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if r := monitor.Wait(t, rig.Limit); r.Code != 0 ||
		strings.Count(r.Stderr, "alerts cannot be brought") != 1 {
		t.Errorf("%s", r)
	}
	ways.configure(t, "sendmail")
	monitor = rig.Launch(t, vmtest.Binary(t), "monitor", "--listen", addr)
	ways.wait(t, "blocks-pending", "worse", "Blocks of seen do not read: ")
	for off := int64(0); off < f.Size/2; off += 1 << 20 {
		if err := f.Write(rig.Aligned(1<<20), off); err != nil {
			t.Fatal(err)
		}
	}
	rig.Until(t, "new remapped units", func() bool {
		return strings.Contains(ways.read("hooks"), "new-bad-blocks raised")
	})
	f.Close()
	rig.Want(t, 0, "stop", "seen")
	if err := monitor.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	monitor.Wait(t, rig.Limit).Want(t, 0)
}
