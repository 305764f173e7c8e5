package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
	"ublkremap/ublk"
)

// TestBatchIOIsForced: the flag decides, the device keeps it from server to server, and a
// kernel without it is named.
func TestBatchIOIsForced(t *testing.T) {
	disk := newDisk(t, 512)
	ctl, err := ublk.OpenControl()
	if err != nil {
		t.Fatal(err)
	}
	have, err := ctl.Features(context.Background())
	if err := errors.Join(err, ctl.Close()); err != nil {
		t.Fatal(err)
	}
	startDevice(t, disk)
	if statusJSON(t, "life").Features.BatchIO {
		t.Error("it is on though nobody asked")
	}
	want(t, 0, "stop", "life")
	if !have.Has(ublk.FeatureBatchIO) {
		if !vmtest.KernelVersion().Less(vmtest.V(7, 0)) {
			t.Error("a kernel that should have batch I/O lacks it")
		}
		for _, args := range [][]string{{"start", disk, "--batch-io=on"},
			{"start", disk, "--batch-io=on", "--foreground"}} {
			if r := want(t, exit.Unsupported, args...); !strings.Contains(r.err, "7.0") {
				t.Error(r.err)
			}
		}
		want(t, exit.NotFound, "status", "life")
		return
	}
	for _, zeroCopy := range []string{"off", "on"} {
		startDevice(t, disk, "--batch-io=on", "--zero-copy="+zeroCopy)
		wantBatch(t, true, zeroCopy == "on")
		before := statusJSON(t, "life").ServerPID
		want(t, 0, "upgrade", "life")
		if statusJSON(t, "life").ServerPID == before {
			t.Error("upgraded to the same server")
		}
		wantBatch(t, true, zeroCopy == "on")
		if r := want(t, 0, "status", "life"); !strings.Contains(r.out, "batch I/O") {
			t.Error(r.out)
		}
		want(t, 0, "stop", "life")
	}
	if vmtest.UserMode() {
		return // it panics when a server with batch I/O is killed at a bad time
	}
	for _, c := range []struct {
		made, contradicts string
		batch             bool
	}{{"--batch-io=on", "--batch-io=off", true}, {"--batch-io=off", "--batch-io=on", false}} {
		kill(t, startDevice(t, disk, c.made, "--zero-copy=off"))
		st := statusJSON(t, "life")
		for deadline := time.Now().Add(
			3 * time.Minute); st.State != control.StateFailed &&
			time.Now().Before(deadline); st = statusJSON(t, "life") {
			time.Sleep(10 * time.Millisecond)
		}
		if st.State != control.StateFailed || st.Features.BatchIO != c.batch {
			t.Errorf("without a server: %+v", st)
		}
		want(t, exit.Refused, "start", disk, c.contradicts)
		want(t, 0, "start", disk)
		wantBatch(t, c.batch, false)
		want(t, 0, "stop", "life")
	}
	want(t, 0, "metadata", "check", disk)
}

func wantBatch(t *testing.T, batch, zeroCopy bool) {
	t.Helper()
	if f := statusJSON(t, "life").Features; f.BatchIO != batch || f.ZeroCopy != zeroCopy {
		t.Errorf("features %+v, want batch I/O %v and zero copy %v", f, batch, zeroCopy)
	}
}
