package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// configure writes the file of a set.
func configure(t *testing.T, dir, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o644))
}

// record returns the runtime record of "life".
func record(t *testing.T) *control.Record {
	t.Helper()
	r, err := control.ReadRecord("life")
	must(t, err)
	return r
}

// A set is started, upgraded and recovered with the options of its file. A file with an error does
// not keep a device waiting.
func TestConfiguredLife(t *testing.T) {
	vmtest.OnOneKernel(t)
	dir := useConfigDir(t, nil)
	disk := newDisk(t, 512)
	configure(t, dir, "life", "depth = 32\nfail-fast = \"7s\"\nlog-level = \"debug\"\n")
	dev := rig.StartDevice(t, "life", "--retries=4")
	r := record(t)
	if r.Depth != 32 || r.Options["fail-fast"] != "7s" || r.Options["retries"] != "4" {
		t.Errorf("%+v", r)
	}
	vmtest.Mkfs(t, "ext4", dev)
	mnt := vmtest.Mount(t, "ext4", dev)

	// A reload makes the changes that are possible while the device is mounted, and reports the
	// others.
	configure(t, dir, "life", "depth = 64\nfail-fast = \"9s\"\nretries = 8\nid = 9\n")
	out := rig.Want(t, 0, "reload", "life").Stdout
	if !strings.HasSuffix(out, "\n"+dev+": fail-fast 7s -> 9s, log-level debug -> info; "+
		"id the next that is free -> 9, depth 32 -> 64: not before the device is stopped and "+
		"started (ublk-remap stop life)\n") {
		t.Errorf("%q", out)
	}
	r = record(t)
	if r.Depth != 32 || r.Options["fail-fast"] != "9s" || r.Options["depth"] != "32" ||
		r.Options["retries"] != "4" || r.Options["log-level"] != "" {
		t.Errorf("%+v", r)
	}

	// An error is reported, and the server goes on.
	configure(t, dir, "life", "depth = ")
	if res := rig.Want(t, exit.Usage, "upgrade", "life"); !strings.Contains(res.Stderr,
		"life.toml:1:8") {
		t.Errorf("%s", res.Stderr)
	}
	if now := record(t); now.PID != r.PID {
		t.Errorf("process %d serves, not %d", now.PID, r.PID)
	}

	// The next server takes the options of the last one, and logs that.
	rig.Kill(t, dev)
	awaitFailed(t)
	rig.Want(t, 0, "start", "life")
	if now := record(t); now.Options["fail-fast"] != "9s" || now.Depth != 32 {
		t.Errorf("%+v", now)
	}
	awaitLog(t, 1, "life.toml:1:8", "goes on with what its last server had")

	// The same happens if the file does not fit the device.
	zero := "on"
	if rig.StatusOf(t, "life").Features.ZeroCopy {
		zero = "off"
	}
	configure(t, dir, "life", "id = 99\ndepth = 8\nqueues = 3\nzero-copy = \""+zero+"\"\n")
	rig.Kill(t, dev)
	awaitFailed(t)
	if again := rig.StartDevice(t, disk); again != dev || record(t).Depth != 32 {
		t.Errorf("%s became %s, depth %d", dev, again, record(t).Depth)
	}

	// A file that others can write is not used.
	must(t, os.Chmod(filepath.Join(dir, "life.toml"), 0o666))
	rig.Kill(t, dev)
	awaitFailed(t)
	rig.Want(t, 0, "start", "life")

	vmtest.Unmount(t, mnt)
	vmtest.Fsck(t, "ext4", dev)
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, exit.Refused, "start", "life")
	configure(t, dir, "life", "id = 99\ndepth = 8\n")
	must(t, os.Chmod(filepath.Join(dir, "life.toml"), 0o644))
	if dev := rig.StartDevice(t, "life"); dev != "/dev/ublkb99" || record(t).Depth != 8 {
		t.Errorf("%s, depth %d", dev, record(t).Depth)
	}
	rig.Want(t, 0, "stop", "life")
	if dev := rig.StartDevice(t, "life", "--no-config", "--depth=16"); dev == "/dev/ublkb99" ||
		record(t).Depth != 16 {
		t.Errorf("%s, depth %d", dev, record(t).Depth)
	}
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
}

// scanOf returns the row of a disk.
func scanOf(t *testing.T, backing string) scanned {
	t.Helper()
	var all []scanned
	must(t, json.Unmarshal([]byte(rig.Want(t, 0, "scan", "--json").Stdout), &all))
	for _, s := range all {
		if s.Backing == backing {
			return s
		}
	}
	t.Fatalf("%s is not in %+v", backing, all)
	return scanned{}
}

// scan says what each disk needs, and changes nothing.
func TestScan(t *testing.T) {
	vmtest.OnOneKernel(t)
	dir := useConfigDir(t, nil)
	disk := newDisk(t, 512)
	spared := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", spared, "--name", "spared", "--spare-device", spare)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, 64<<20))
	rig.Want(t, 0, "create", file, "--name", "file")
	configure(t, dir, "file", "backing = \""+file+"\"\n")

	for _, path := range []string{disk, spared, file} {
		if s := scanOf(t, path); s.State != host.StateStopped || s.Device != "" ||
			s.Reason != "" || !strings.Contains(s.Action, "ublk-remap start "+s.Name) ||
			s.LastStarted != nil {
			t.Errorf("%+v", s)
		}
	}
	if s := scanOf(t, spared); !slices.Equal(s.SpareDevices, []string{spare}) {
		t.Errorf("%+v", s)
	}
	if s := scanOf(t, file); s.File == "" || s.Enabled {
		t.Errorf("%+v", s)
	}

	// It is served, and then its server dies.
	dev := rig.StartDevice(t, "life")
	epoch := scanOf(t, disk)
	if epoch.State != string(control.StateLive) || epoch.Device != dev {
		t.Errorf("%+v", epoch)
	}
	rig.Kill(t, dev)
	awaitFailed(t)
	if s := scanOf(t, disk); s.State != string(control.StateFailed) || s.Device != dev ||
		!strings.Contains(s.Action, "ublk-remap start life") {
		t.Errorf("a recovery waits: %+v", s)
	}
	rig.Want(t, 0, "start", "life")
	rig.Want(t, 0, "stop", "life")

	// The spare device is missing.
	gone := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
	lonely := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", lonely, "--name", "lonely", "--spare-device", gone)
	must(t, zeroEnds(gone))
	if s := scanOf(t, lonely); s.State != host.StateIncomplete || s.Action == "" ||
		!strings.Contains(s.Reason, "spare device") {
		t.Errorf("%+v", s)
	}
	// The file of one set has the UUID of another set.
	life := scanOf(t, disk)
	configure(t, dir, "alias", "uuid = \""+life.UUID+"\"\n")
	if res := rig.Want(t, exit.Refused, "start", "alias"); !strings.Contains(res.Stderr,
		"alias.toml:1:1: refused: its disk carries the set \"life\"") {
		t.Errorf("%s", res.Stderr)
	}
	must(t, os.Remove(filepath.Join(dir, "alias.toml")))

	must(t, zeroEnds(spared))
	var alone []scanned
	must(t, json.Unmarshal([]byte(rig.Want(t, 0, "scan", "--json").Stdout), &alone))
	if !slices.ContainsFunc(alone, func(s scanned) bool {
		return s.Backing == "" && s.Name == "spared" && s.State == host.StateIncomplete &&
			slices.Equal(s.SpareDevices, []string{spare})
	}) {
		t.Errorf("a spare device without its disk: %+v", alone)
	}

	// A copy: first with the same epoch, then an older one.
	twin := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	vmtest.Run(t, "dd", "if="+disk, "of="+twin, "bs=1M", "conv=fsync", "status=none")
	if s := scanOf(t, twin); s.State != host.StateAmbiguous {
		t.Errorf("%+v", s)
	}
	rig.StartDevice(t, disk)
	if s := scanOf(t, twin); s.State != host.StateCopy || !strings.Contains(s.Reason, disk) {
		t.Errorf("%+v", s)
	}
	rig.Want(t, 0, "stop", "life")
	if s := scanOf(t, twin); s.State != host.StateCopy || !strings.Contains(s.Reason, "older") {
		t.Errorf("%+v", s)
	}
	if s := scanOf(t, disk); s.State != host.StateStopped || s.Epoch <= scanOf(t, twin).Epoch ||
		s.LastStarted == nil {
		t.Errorf("%+v", s)
	}
	must(t, zeroEnds(twin))

	// Both mirrors are damaged, and the superblocks are not.
	f, err := os.OpenFile(disk, os.O_RDWR|os.O_SYNC, 0)
	must(t, err)
	for _, r := range metadataRegions(t, disk) {
		_, err := f.WriteAt(make([]byte, r.Length), r.Start)
		must(t, err)
	}
	must(t, f.Close())
	if s := scanOf(t, disk); s.State != host.StateDamaged ||
		!strings.Contains(s.Action, "metadata check") {
		t.Errorf("%+v", s)
	}
	out := strings.Join(strings.Fields(rig.Want(t, 0, "scan").Stdout), " ")
	if !strings.Contains(out, disk+" life damaged - no -") ||
		!strings.Contains(out, "and see: ublk-remap metadata check "+disk) {
		t.Error(out)
	}
}

// zeroEnds writes zeroes over the first and the last MiB of a disk.
func zeroEnds(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	zeroes := make([]byte, 1<<20)
	if _, err := f.WriteAt(zeroes, 0); err != nil {
		return err
	}
	_, err = f.WriteAt(zeroes, end-1<<20)
	return err
}

// All sets that have a file are started, and all devices are stopped, each with its own result.
// Sets that fail do not delay the others.
func TestAll(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	dir := useConfigDir(t, nil)
	var disks []string
	for _, name := range []string{"a", "b", "c"} {
		disk := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
		rig.Want(t, 0, "create", disk, "--name", name)
		configure(t, dir, name, "depth = 16\n")
		disks = append(disks, disk)
	}
	rig.StartDevice(t, "b")
	configure(t, dir, "missing", "")
	configure(t, dir, "broken", "quues = 1\n")
	do := func(code int, args ...string) map[string]doneOne {
		t.Helper()
		var all []doneOne
		must(t, json.Unmarshal([]byte(rig.Want(t, code, append(args, "--json")...).Stdout), &all))
		by := map[string]doneOne{}
		for _, d := range all {
			by[d.Name] = d
		}
		return by
	}
	by := do(exit.NotFound, "start", "--all") // 4 is more than 2
	for name, want := range map[string]string{"a": "started", "b": "running", "c": "started",
		"missing": "failed", "broken": "failed"} {
		d := by[name]
		if d.Result != want || (d.Device == "") != (want == "failed") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if by["broken"].Code != exit.Usage || !strings.Contains(by["broken"].Error, "quues") ||
		by["missing"].Code != exit.NotFound || len(by) != 5 {
		t.Errorf("%+v", by)
	}
	if n := len(rig.List(t)); n != 3 {
		t.Errorf("%d devices", n)
	}
	vmtest.Mkfs(t, "ext4", by["a"].Device)
	mnt := vmtest.Mount(t, "ext4", by["a"].Device)
	by = do(exit.Refused, "stop", "--all")
	if by["a"].Result != "failed" || !strings.Contains(by["a"].Error, mnt) ||
		by["b"].Result != "stopped" || by["c"].Result != "stopped" {
		t.Errorf("%+v", by)
	}
	vmtest.Unmount(t, mnt)
	res := rig.Want(t, 0, "stop", "--all")
	if !strings.Contains(res.Stdout, "stopped") || len(rig.List(t)) != 0 {
		t.Errorf("%s", res.Stdout)
	}
	if by := do(0, "stop", "--all"); len(by) != 0 {
		t.Errorf("%+v", by)
	}
	rig.Want(t, exit.Usage, "start", "--all", "--depth=8")
	rig.Want(t, exit.Usage, "start", "--all", "a")
	for _, disk := range disks {
		rig.Want(t, 0, "metadata", "check", disk)
	}
}

// With a full runtime directory, a start says so and leaves nothing. A device that waits for a
// server still waits, and is recovered when there is room.
func TestFullRuntimeDir(t *testing.T) {
	vmtest.OnOneKernel(t)
	useConfigDir(t, nil)
	disk := newDisk(t, 512)
	run := control.Dir()
	must(t, os.MkdirAll(run, 0o700))
	vmtest.Run(t, "mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", run)
	t.Cleanup(func() { vmtest.Run(t, "umount", run) })
	fill := func() {
		t.Helper()
		f, err := os.Create(filepath.Join(run, "filler"))
		must(t, err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !strings.Contains(err.Error(), "no space") {
			t.Fatal(err)
		}
	}
	empty := func() { must(t, os.Remove(filepath.Join(run, "filler"))) }
	fill()
	res := rig.Want(t, exit.Failed, "start", disk)
	if !strings.Contains(res.Stderr, "no space left") || !strings.Contains(res.Stderr, run) {
		t.Errorf("%s", res.Stderr)
	}
	if devices, err := filepath.Glob("/dev/ublkb*"); err != nil || len(devices) != 0 {
		t.Errorf("%v, %v", devices, err)
	}
	empty()
	dev := rig.StartDevice(t, disk)
	vmtest.Mkfs(t, "ext4", dev)
	mnt := vmtest.Mount(t, "ext4", dev)
	fill()
	rig.StatusOf(t, "life") // a server that runs needs no room
	rig.Kill(t, dev)
	awaitFailed(t)
	rig.Want(t, exit.Failed, "start", "life")
	if s := scanOf(t, disk); s.State != string(control.StateFailed) || s.Device != dev {
		t.Errorf("%+v", s)
	}
	empty()
	if again := rig.StartDevice(t, "life"); again != dev {
		t.Errorf("%s became %s", dev, again)
	}
	vmtest.Unmount(t, mnt)
	vmtest.Fsck(t, "ext4", dev)
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
}
