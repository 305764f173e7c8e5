package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// statusNames are the stable names of `status --json`, see docs/COMMAND.md.
const statusNames = `device id name uuid state reason action waiting_since created
backing block_size size_blocks
spare spare.total spare.used spare.free spare.devices spare.devices[].device spare.devices[].total
remaps pending lost table table.entries table.max table.growth
errors errors.read errors.write errors.flush errors.transport errors.failed_fast errors.not_noted
heals heals.writes heals.reads heals.failed
io io.reads io.writes io.flushes io.discards io.read_bytes io.write_bytes
requests requests.under_way requests.most requests.slow requests.slow_since requests.slow_last
metadata metadata.version metadata.sequence
metadata.mirrors metadata.mirrors[].location metadata.mirrors[].state
metadata.log_used metadata.log_size metadata.bad_superblocks metadata.scrubbed
scrub scrub.state scrub.position scrub.total scrub.rate scrub.last_finished
breaker breaker.state breaker.reason breaker.kind alerts missing
features features.zero_copy features.auto_buf_reg features.batch_io features.recovery server_pid
error_recovery`

// TestJSON checks what scripts read: names, shapes, and that the numbers agree.
func TestJSON(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 3*time.Minute)
	d := rig.NewDisk(t, rig.KindLoop, 48, 512)
	s := create(t, d, "--spare", "1MiB")
	lay := rig.LayoutOf(t, d.Path)
	var none []rig.Status
	rig.Parse(t, rig.Remap(t, "status", "--json"), &none)
	if len(none) != 0 {
		t.Errorf("status --json of no devices: %+v", none)
	}
	if out := rig.Remap(t, "list", "--json").Want(t, rig.ExitDone); out != "[]" {
		t.Errorf("list --json of no devices: %q, want []", out)
	}
	s.Start(t, "--queues", "2", "--depth", "16")
	if out := rig.Remap(t, "remap", "list", s.Dev, "--json").Want(t, rig.ExitDone); out != "[]" {
		t.Errorf("remap list --json without remaps: %q, want []", out)
	}

	f := rig.Open(t, s.Dev)
	f.Fill(t, 0, 4<<20, 1)
	at := lay.Head + 8<<20
	d.SetBad(t, []rig.Extent{rig.At(at, 1024), rig.At(at+1<<20, 512)})
	f.Fill(t, at, at+4096, 1)
	if err := f.Read(rig.Aligned(512), at+1<<20); err != d.ReadErrno() {
		t.Errorf("read of a bad block: %v", err)
	}
	if err := f.Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	f.Close()

	r := rig.Remap(t, "status", s.Dev, "--json")
	names, want := jsonNames(t, r.Want(t, rig.ExitDone)), strings.Fields(statusNames)
	slices.Sort(want)
	for _, n := range want {
		if !slices.Contains(names, n) {
			t.Errorf("status --json has no %s", n)
		}
	}
	for _, n := range names {
		if !slices.Contains(want, n) {
			t.Errorf("status --json has %s, which is not documented", n)
		}
	}
	var st rig.Status
	rig.Parse(t, r, &st)
	switch {
	case st.Device != s.Dev, st.Name != s.Name, len(st.UUID) != 36, st.State != "live",
		fmt.Sprintf("/dev/ublkb%d", st.ID) != s.Dev,
		!sameFile(st.Backing, d.Path), st.BlockSize != 512, st.SizeBlocks != lay.Exported/512,
		st.Spare.Total != 256, st.Spare.Used != 1, st.Spare.Free != 255, st.Remaps != 1,
		st.Pending != 1, st.Lost != 0,
		st.Errors.Write == 0, st.Errors.Read == 0, st.Heals.Writes != 1,
		st.IO.Writes == 0, st.IO.WriteBytes < 4<<20, st.IO.Reads == 0, st.IO.Flushes == 0,
		st.Metadata.Version != 4, st.Metadata.Sequence == 0, len(st.Metadata.Mirrors) != 2,
		st.Metadata.LogSize == 0,
		st.Breaker.State != "closed", !st.Features.Recovery, st.ServerPID <= 1:
		t.Errorf("status: %+v", st)
	}
	rows := s.Remaps(t)
	if len(rows) != 2 || rows[0].Block != at/512 || rows[0].Count != 2 || rows[0].Spare == nil ||
		rows[0].State != "mapped" ||
		rows[1].Block != (at+1<<20)/512 || rows[1].Count != 1 || rows[1].Spare != nil ||
		rows[1].State != "pending" {
		t.Errorf("remap list: %+v", rows)
	}
	for _, row := range rows {
		if when, err := time.Parse(time.RFC3339, row.Time); err != nil ||
			time.Since(when).Abs() > time.Hour || row.Cause == "" {
			t.Errorf("remap list: cause %q, time %q (%v)", row.Cause, row.Time, err)
		}
	}

	// Without a device, status and list are arrays; every way to name one works.
	for _, args := range [][]string{{"status", "--json"}, {"list", "--json"}} {
		var all []map[string]any
		rig.Parse(t, rig.Remap(t, args...), &all)
		if len(all) != 1 || all[0]["device"] != s.Dev || all[0]["name"] != s.Name ||
			all[0]["uuid"] != st.UUID || all[0]["state"] != "live" {
			t.Errorf("%v: %v", args, all)
		}
	}
	for _, name := range []string{s.Name, strings.TrimPrefix(s.Dev, "/dev/"), fmt.Sprint(st.ID)} {
		var other rig.Status
		rig.Parse(t, rig.Remap(t, "status", name, "--json"), &other)
		if other.UUID != st.UUID {
			t.Errorf("status %s: %+v", name, other)
		}
	}
	for _, args := range [][]string{{"status"}, {"status", s.Dev}, {"list"},
		{"remap", "list", s.Dev}} {
		if out := rig.Remap(t, args...).Want(t, rig.ExitDone); out == "" {
			t.Errorf("%v prints nothing", args)
		}
	}
	s.Stop(t)
	var rep map[string]any
	rig.Parse(t, rig.Remap(t, "metadata", "check", d.Path, "--json"), &rep)
	if len(rep) == 0 {
		t.Error("metadata check --json says nothing")
	}
	rig.Parse(t, rig.Remap(t, "metadata", "dump", d.Path, "--json"), &rep)
	if len(rep) == 0 {
		t.Error("metadata dump --json says nothing")
	}
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// TestExitCodes misuses the program.
func TestExitCodes(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 3*time.Minute)
	blank := rig.NewDisk(t, rig.KindNull, 48, 512)
	withFS := rig.NewDisk(t, rig.KindNull, 48, 512)
	rig.Mkfs(t, "ext4", withFS.Path)
	d := rig.NewDisk(t, rig.KindLoop, 48, 512)
	s := create(t, d, "--name", "codes")
	s.Name = "codes"
	file := filepath.Join(t.TempDir(), "not-a-device")
	if err := os.WriteFile(file, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(code int, args ...string) {
		t.Helper()
		r := rig.Remap(t, args...)
		if r.Code != code {
			t.Errorf("want exit code %d\n%s", code, r)
		}
		if code != rig.ExitDone && (r.Stdout != "" || strings.TrimSpace(r.Stderr) == "" ||
			len(lines(r.Stderr)) != 1) {
			t.Errorf("an error is one line on standard error and nothing else\n%s", r)
		}
	}
	usage := func(args ...string) {
		t.Helper()
		if r := rig.Remap(t, args...); r.Code != rig.ExitUsage || r.Stdout != "" || r.Stderr == "" {
			t.Errorf("want exit code %d\n%s", rig.ExitUsage, r)
		}
	}
	usage("no-such-verb")
	usage("create")
	usage("create", blank.Path, "--no-such-flag")
	usage("create", blank.Path, "--spare", "many")
	usage("create", blank.Path, "--spare", "1000", "--yes")
	usage("start")
	usage("start", d.Path, "--zero-copy=perhaps")
	usage("start", d.Path, "--queues", "none")
	usage("metadata", "no-such-verb")

	try(rig.ExitNotFound, "start", "/dev/no-such-disk")
	try(rig.ExitNotFound, "start", "no-such-name")
	try(rig.ExitNotFound, "start", blank.Path)
	try(rig.ExitNotFound, "stop", "/dev/ublkb77")
	try(rig.ExitNotFound, "status", "no-such-name")
	try(rig.ExitNotFound, "remap", "list", "no-such-name")
	try(rig.ExitNotFound, "metadata", "check", blank.Path)
	try(rig.ExitNotFound, "metadata", "dump", "/dev/no-such-disk")

	try(rig.ExitRefused, "create", withFS.Path, "--yes")
	try(rig.ExitRefused, "create", d.Path, "--yes")
	rig.Fsck(t, "ext4", withFS.Path)
	s.Check(t)

	if vmtest.KernelVersion().Less(zeroCopyMin) {
		try(rig.ExitUnsupported, "start", d.Path, "--zero-copy=on")
	}
	if found, _ := filepath.Glob("/dev/ublkb*"); len(found) != 0 {
		t.Errorf("a start that failed left %v", found)
	}

	s.Start(t)
	try(rig.ExitRefused, "start", d.Path)
	try(rig.ExitRefused, "create", d.Path, "--yes", "--force")
	usage("remap", "add", s.Dev, "x")
	usage("remap", "add", s.Dev, "999999999+1")
	usage("remap", "add", s.Dev)
	// In use: stop refuses, and the device goes on.
	rig.Mkfs(t, "ext4", s.Dev)
	dir := s.Mount(t, "ext4")
	try(rig.ExitRefused, "stop", s.Dev)
	if err := os.WriteFile(dir+"/file", []byte("still here"), 0o600); err != nil {
		t.Error(err)
	}
	rig.Unmount(t, dir)
	s.Stop(t)

	// This damage is beyond what the mirrors can repair: the superblocks say v4, and nothing else
	// is whole.
	broken := rig.NewDisk(t, rig.KindNull, 48, 512)
	rig.Remap(t, "create", broken.Path, "--yes", "--name", "broken").Want(t, rig.ExitDone)
	f := rig.Open(t, broken.Path)
	size := f.Size
	f.Close()
	f = rig.Open(t, broken.Path)
	f.Fill(t, 128<<10, 1<<20, 9)
	f.Fill(t, size-(2<<20), size-(64<<10), 9)
	f.Close()
	if r := rig.Remap(t, "metadata", "check", broken.Path); r.Code != rig.ExitDamaged ||
		r.Stdout == "" ||
		r.Stderr == "" {
		t.Errorf("want exit code %d and a report\n%s", rig.ExitDamaged, r)
	}
	try(rig.ExitDamaged, "start", broken.Path)
	if found, _ := filepath.Glob("/dev/ublkb*"); len(found) != 0 {
		t.Errorf("a start that failed left %v", found)
	}

	for _, args := range [][]string{{"version"}, {"doctor"}, {"completion", "bash"}, {"--help"},
		{"start", "--help"}} {
		if out := rig.Remap(t, args...).Want(t, rig.ExitDone); out == "" {
			t.Errorf("%v prints nothing", args)
		}
	}
	if out := rig.Remap(t, "doctor", "--json").Want(t, rig.ExitDone); !json.Valid([]byte(out)) {
		t.Errorf("doctor --json: %s", out)
	}
}

func lines(s string) []string {
	return strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' })
}

// jsonNames are the names of a JSON object and of the objects in it.
func jsonNames(t testing.TB, text string) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("JSON: %v\n%s", err, text)
	}
	var out []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				name := strings.TrimPrefix(prefix+"."+k, ".")
				out = append(out, name)
				walk(name, e)
			}
		case []any:
			for _, e := range v {
				walk(prefix+"[]", e)
			}
		}
	}
	walk("", v)
	slices.Sort(out)
	return slices.Compact(out)
}
