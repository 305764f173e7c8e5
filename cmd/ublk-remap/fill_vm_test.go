package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// writeAt writes into a file.
func writeAt(t *testing.T, path string, b []byte, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestFillFromImage: bad blocks get what an image has of them, also by the map of ddrescue, and
// what was written meanwhile stays. Images and maps of another disk are refused.
func TestFillFromImage(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := rig.Random(t)
	const size = 96 << 20
	loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	dm := vmtest.NewDM(t, vmtest.LinearTable(t, loop))
	rig.Want(t, 0, "create", dm.Path, "--name", "filled", "--spare", "2MiB")
	dev := rig.StartDevice(t, dm.Path)
	d := rig.Open(t, dev)
	old := rig.Aligned(8 << 20)
	for i := range old {
		old[i] = byte(rng.Uint32())
	}
	const at = 40 << 20
	if err := d.Write(old, at); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	rig.Run(t, "dd", "if="+dev, "of="+image, "bs=1M", "iflag=direct")

	// Sectors go bad, and reads find them.
	bad := []vmtest.Extent{{Start: at/512 + 1001, Count: 3}, {Start: at/512 + 1040, Count: 16},
		{Start: at/512 + 8000, Count: 1}, {Start: at/512 + 12000, Count: 8}}
	dm.Swap(t, vmtest.ErrorTable(t, loop, bad...))
	b := rig.Aligned(64 << 10)
	pending := int64(0)
	for _, x := range bad {
		pending += x.Count
		for s := x.Start; s < x.Start+x.Count; s++ {
			if err := d.Read(b[:512], s*512); err == nil {
				t.Fatalf("sector %d reads", s)
			}
		}
	}
	if st := rig.StatusOf(t, dev); st.Pending < pending {
		t.Fatalf("%+v", st)
	}
	before := rig.StatusOf(t, dev).Pending

	if vmtest.Full() {
		refuse(t, dev, image, size)
	}

	// The map says that one of them was not rescued.
	var sb strings.Builder
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	lost := int64(at + 8000*512)
	fmt.Fprintf(&sb, "# Mapfile. Created by GNU ddrescue version 1.27\n0x0 + 1\n0x0 %#x +\n"+
		"%#x 0x200 -\n%#x %#x +\n", lost, lost, lost+512, info.Size()-lost-512)
	list := filepath.Join(t.TempDir(), "map")
	if err := os.WriteFile(list, []byte(sb.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	// Sector 12000 is written meanwhile, with other data.
	newer := rig.Aligned(8 * 512)
	copy(newer, bytes.Repeat([]byte("newer"), 800))
	if err := d.Write(newer, at+12000*512); err != nil {
		t.Fatal(err)
	}
	var plan, res fillResult
	parseJSON(t, rig.Want(t, 0, "fill", dev, "--from", image, "--map", list, "--dry-run",
		"--json").Stdout, &plan)
	if rig.StatusOf(t, dev).Pending != before-8 {
		t.Error("a dry run filled something")
	}
	parseJSON(t, rig.Want(t, 0, "fill", dev, "--from", image, "--map", list, "--json").Stdout, &res)
	if res.Filled+res.Reads+1 != uint64(before-8) || res.Missing != 1 || res.Failed != 0 ||
		plan.Filled != res.Filled+res.Reads || plan.Missing != 1 || !plan.DryRun {
		t.Errorf("%+v, planned %+v", res, plan)
	}
	if st := rig.StatusOf(t, dev); st.Pending != 1+int64(res.Reads) {
		t.Errorf("%+v", st)
	}
	// The rest is filled from an image of a part of the device, without a map.
	part := filepath.Join(t.TempDir(), "part")
	rig.Run(t, "dd", "if="+image, "of="+part, "bs=1M", "skip=32")
	rig.Want(t, 0, "fill", "filled", "--from", part, "--offset", "32MiB")
	rig.Kill(t, dev)
	rig.Want(t, 0, "start", "filled")
	got := rig.Aligned(len(old))
	if err := d.Read(got, at); err != nil {
		t.Fatal(err)
	}
	copy(old[12000*512:], newer)
	if !bytes.Equal(got, old) {
		t.Error("the device does not hold what it held")
	}
	d.Close()
	rig.Want(t, 0, "stop", "filled")
	rig.Want(t, 0, "metadata", "check", dm.Path)
}

// refuse gives fill what it must refuse.
func refuse(t *testing.T, dev, image string, size int64) {
	t.Helper()
	dir := t.TempDir()
	other, short := filepath.Join(dir, "other"), filepath.Join(dir, "short")
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	// Of the same size, with other contents.
	writeAt(t, other, bytes.Repeat([]byte{0x5a}, 8<<20), 40<<20)
	if err := os.Truncate(other, info.Size()); err != nil {
		t.Fatal(err)
	}
	writeAt(t, short, []byte("x"), info.Size()/2)
	pipe := filepath.Join(dir, "pipe") // that nobody writes to
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	maps := func(text string) string {
		path := filepath.Join(t.TempDir(), "map")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exit.Usage, "--from", nil},
		{exit.NotFound, "", []string{"--from", filepath.Join(dir, "none")}},
		{exit.Usage, "itself", []string{"--from", dev}},
		{exit.Usage, "want a file", []string{"--from", dir}},
		{exit.Usage, "want a file", []string{"--from", pipe}},
		{exit.Usage, "it is empty", []string{"--from", image, "--map", ""}},
		{exit.Usage, "it is empty", []string{"--from", image, "--offset", ""}},
		{exit.Refused, "--offset", []string{"--from", short}},
		{exit.Refused, "another disk", []string{"--from", other}},
		{exit.Refused, "another disk", []string{"--from", image, "--offset", "1MiB"}},
		{exit.Usage, "multiple", []string{"--from", image, "--offset", "100"}},
		{exit.Refused, "another image", []string{"--from", image, "--map",
			maps("0x0 + 1\n0x0 0x100000 +\n")}},
		{exit.Usage, "map:2", []string{"--from", image, "--map", maps("0x0 + 1\n0x0 0x1000 x\n")}},
		{exit.Usage, "map", []string{"--from", image, "--map", maps("nothing\n")}},
	} {
		r := rig.Want(t, c.code, append([]string{"fill", dev}, c.args...)...)
		if !strings.Contains(r.Stderr, c.says) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: %s", c.args, r.Stderr)
		}
	}
}
