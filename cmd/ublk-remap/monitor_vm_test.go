package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/internal/monitor"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestMonitor: the metrics and the plugin follow what happens to a device.
func TestMonitor(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	lower := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	rig.Want(t, 0, "create", disk.Path, "--name", "seen", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk.Path)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	const addr = "127.0.0.1:19947"
	go func() {
		ended <- run(ctx, []string{"monitor", "--listen", addr}, stdio{in: strings.NewReader(""),
			out: io.Discard, err: &bytes.Buffer{}})
	}()
	text := ""
	wait := func(lines ...string) {
		t.Helper()
		rig.Until(t, strings.Join(lines, ", ")+" in the metrics", func() bool {
			r, err := http.Get("http://" + addr + "/metrics")
			if err != nil {
				return false
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			text = "\n" + string(b)
			for _, line := range lines {
				if !strings.Contains(text, "\n"+line+"\n") {
					return false
				}
			}
			return true
		})
	}
	wait(`ublk_remap_server_up{set="seen"} 1`, `ublk_remap_remapped_units{set="seen"} 0`,
		"ublk_remap_monitor_success 1", "ublk_remap_monitor_devices 1")
	if r := rig.Want(t, 0, "check", "seen"); !strings.HasPrefix(r.Stdout, "UBLK-REMAP OK - seen") {
		t.Error(r.Stdout)
	}
	f := rig.Open(t, dev)
	defer f.Close()
	disk.Swap(t, vmtest.ErrorTable(t, lower, vmtest.Extent{Start: 40000, Count: 8}))
	for off := int64(0); off < f.Size/2; off += 1 << 20 {
		if err := f.Write(rig.Aligned(1<<20), off); err != nil {
			t.Fatal(err)
		}
	}
	wait(`ublk_remap_remapped_units{set="seen"} 1`)
	dir := t.TempDir()
	rig.Want(t, 0, "monitor", "--textfile", dir)
	if b, err := os.ReadFile(filepath.Join(dir, monitor.TextfileName)); err != nil ||
		!bytes.Contains(b, []byte(`ublk_remap_remapped_units{set="seen"} 1`)) {
		t.Errorf("%v: %s", err, b)
	}
	rig.Kill(t, dev)
	wait(`ublk_remap_server_up{set="seen"} 0`,
		`ublk_remap_device_state{set="seen",state="failed"} 1`)
	if strings.Contains(text, "ublk_remap_remapped_units{") {
		t.Error("figures of a dead server")
	}
	if r := rig.Want(t, int(pluginCritical), "check"); !strings.Contains(r.Stdout,
		"CRITICAL - seen") {
		t.Error(r.Stdout)
	}
	rig.Want(t, 0, "start", "seen")
	wait(`ublk_remap_server_up{set="seen"} 1`)
	f.Close()
	rig.Want(t, 0, "stop", "seen")
	wait("ublk_remap_monitor_devices 0")
	rig.Want(t, int(pluginUnknown), "check", "seen")
	rig.Want(t, int(pluginUnknown), "check", "--frob")
	rig.Want(t, int(pluginUnknown), "check", "a", "b")
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("the monitor ended with exit code %d", code)
	}
}
