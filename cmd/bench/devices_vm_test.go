package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ublkremap/bench/peer"
	"ublkremap/bench/result"
	"ublkremap/test/vmtest"
)

// needRig skips the test where no devices can be made.
func needRig(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "losetup", "dmsetup")
	vmtest.Modprobe(t, "null_blk", "nr_devices=0")
}

// rig returns a run with what args select.
func rig(t *testing.T, args ...string) *bench {
	t.Helper()
	// ublksrv is left out, also where there is one, because it is not part of this project.
	args = append([]string{"-kernel", kernelHost, "-size", "8", "-program", vmtest.Binary(t),
		"-peer", "/nonexistent/ublk"}, args...)
	return &bench{o: mustParse(t, args...), out: io.Discard, res: &result.Results{}}
}

// leftovers are the devices that runs make.
func leftovers(t *testing.T) string {
	t.Helper()
	var out []string
	for _, dir := range []string{"/sys/kernel/config/nullb", "/dev", "/dev/mapper"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "bench") || strings.HasPrefix(e.Name(), "ublkb") {
				out = append(out, dir+"/"+e.Name())
			}
		}
	}
	return strings.Join(out, " ")
}

// TestDevices: devices have the type that their names say, count their requests, and can be
// removed.
func TestDevices(t *testing.T) {
	needRig(t)
	before := leftovers(t)
	b := rig(t, "-peers", "^(raw|loop|linear|remap)$")
	tables := rig(t, "-remaps", "100", "-peers", "^remaps-100$")
	devices, err := b.devices(t.Context(), append(b.o.makePeers(), tables.o.makeTables()...),
		peer.Disk{BlockSize: 512, Queues: 1, Depth: 16, CacheMiB: cacheMiB}, b.o.mib<<20)
	defer func() {
		for _, d := range devices {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if after := leftovers(t); after != before {
			t.Errorf("left behind: %s; before there was: %s", after, before)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 5 || len(b.res.Missing) > 0 {
		t.Fatalf("%d devices, want 5; missing: %v", len(devices), b.res.Missing)
	}
	for _, d := range devices {
		if served := d.Peer.Kind == peer.Remap; d.Served() != served {
			t.Errorf("%s: has a server: %v", d.Peer.Name, d.Served())
		}
		used, err := d.Usage()
		if err != nil || d.Served() != (used.Voluntary > 0) {
			t.Errorf("%s: %+v, %v", d.Peer.Name, used, err)
		}
		begun, err1 := d.Completed()
		if err := errors.Join(err1, d.Fill(t.Context(), 4<<20)); err != nil {
			t.Errorf("%s: %v", d.Peer.Name, err)
		}
		// 4 MiB in writes of 1 MiB, which may be split. The kernel counts a request a moment after
		// it has reported its end.
		done, err := d.Completed()
		for deadline := time.Now().Add(
			time.Minute); err == nil && done-begun < 4 &&
			time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			done, err = d.Completed()
		}
		if err != nil || done-begun < 4 {
			t.Errorf("%s: %d requests were completed, %v", d.Peer.Name, done-begun, err)
		}
	}
}

// Every write to a bad block is a heal, and each heal is timed.
func TestHeals(t *testing.T) {
	needRig(t)
	b := rig(t, "-heals", "20", "-peers", "^remap$")
	if err := b.allHeals(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if len(b.res.Heals) != 1 || len(b.res.Heals[0].Healed) != 20 ||
		len(b.res.Heals[0].Plain) != 20 {
		t.Errorf("%+v; missing: %v", b.res.Heals, b.res.Missing)
	}
}
