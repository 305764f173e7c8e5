package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/companion"
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
	const addr = "127.0.0.1:19947"
	monitor := rig.Launch(t, vmtest.Binary(t), "monitor", "--listen", addr)
	seen := pageAt(t, addr)
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
	wait(`ublk_remap_remapped_units{set="seen"} 1`,
		`ublk_remap_request_duration_seconds_count{operation="write",path="heal",set="seen"} 1`,
		`ublk_remap_server_took_over{set="seen"} 0`)
	if !strings.Contains(text, `ublk_remap_disk_failed_operations_total{cause="medium",`+
		`disk="backing",errno="EIO",operation="write",set="seen"} `) {
		t.Errorf("no error by errno in\n%s", text)
	}
	// One of many requests is in the histograms at least.
	for off := int64(0); off < 2000*4096; off += 4096 {
		if err := f.Write(rig.Aligned(4096), off); err != nil {
			t.Fatal(err)
		}
	}
	rig.Until(t, "a write at home in the histograms", func() bool {
		wait("ublk_remap_monitor_success 1")
		return strings.Contains(text, "\nublk_remap_request_duration_seconds_count{"+
			`operation="write",path="home",set="seen"} `)
	})
	seen("/", "<bdi>seen</bdi>", "1 of 256", "The device needs you")
	seen("/device/seen", "write", "met a bad block", ">remap</th>", "metadata", "EIO")
	dir := t.TempDir()
	rig.Want(t, 0, "monitor", "--textfile", dir)
	if b, err := os.ReadFile(filepath.Join(dir, "ublk_remap.prom")); err != nil ||
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
	seen("/device/seen", "failed", "ublk-remap start seen", "no server runs",
		"255 of 256 spare units")
	rig.Want(t, 0, "start", "seen")
	seen("/device/seen", "recovery</th>", "255")
	wait(`ublk_remap_server_up{set="seen"} 1`, `ublk_remap_server_took_over{set="seen"} 1`)
	// A server that hangs: its state says so.
	pid := rig.StatusOf(t, "seen").ServerPID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	wait(`ublk_remap_device_state{set="seen",state="unreachable"} 1`,
		"ublk_remap_monitor_success 1")
	if !strings.Contains(text, `ublk_remap_last_answer_timestamp_seconds{set="seen"} `) {
		t.Error("when it answered last is not told")
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wait(`ublk_remap_device_state{set="seen",state="unreachable"} 0`)
	f.Close()
	rig.Want(t, 0, "stop", "seen")
	wait("ublk_remap_monitor_devices 0")
	rig.Want(t, int(pluginUnknown), "check", "seen")
	rig.Want(t, int(pluginUnknown), "check", "--frob")
	rig.Want(t, int(pluginUnknown), "check", "a", "b")
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", monitor.Cmd.Process.Pid)); err != nil ||
		filepath.Base(exe) != companion.Name {
		t.Errorf("the monitor runs %q, %v", exe, err)
	}
	if err := monitor.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	monitor.Wait(t, rig.Limit).Want(t, 0)
}

// pageAt returns a function that waits until a page of a monitor has all of these texts.
func pageAt(t *testing.T, addr string) func(path string, texts ...string) {
	return func(path string, texts ...string) {
		t.Helper()
		page := ""
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %s", path, page)
			}
		})
		rig.Until(t, strings.Join(texts, ", ")+" in "+path, func() bool {
			r, err := http.Get("http://" + addr + path)
			if err != nil {
				return false
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			page = string(b)
			for _, text := range texts {
				if !strings.Contains(page, text) {
					return false
				}
			}
			return true
		})
	}
}

// TestNoCompanion: without the second program there is one line that says so.
func TestNoCompanion(t *testing.T) {
	vmtest.OnOneKernel(t)
	alone := filepath.Join(t.TempDir(), "ublk-remap")
	rig.Run(t, "cp", vmtest.Binary(t), alone)
	r := rig.Exec(t, alone, "monitor")
	if r.Code != rig.ExitNotFound || strings.Count(r.Stderr, "\n") != 1 ||
		!strings.HasPrefix(r.Stderr, "ublk-remap: ") ||
		!strings.Contains(r.Stderr, companion.Name) {
		t.Errorf("%s", r)
	}
	// The help is of the first program.
	if r := rig.Exec(t, alone, "monitor", "--help"); !strings.Contains(r.Want(t, 0),
		"--web-config") {
		t.Errorf("%s", r)
	}
	if r := rig.Exec(t, alone, "monitor", "--textfile", "/", "--listen", ":1"); r.Code !=
		rig.ExitUsage {
		t.Errorf("%s", r)
	}
}
