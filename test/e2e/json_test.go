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

	"ublkremap/test/vmtest"
)

// statusNames are the stable names of `status --json`, DESIGN.md section 5.
const statusNames = `device id name uuid state reason action waiting_since backing block_size size_blocks
spare spare.total spare.used spare.free spare.devices spare.devices[].device spare.devices[].total
remaps pending lost table table.entries table.max errors errors.read errors.write errors.flush errors.transport errors.failed_fast errors.not_noted
heals heals.writes heals.reads heals.failed
io io.reads io.writes io.flushes io.discards io.read_bytes io.write_bytes
metadata metadata.version metadata.sequence metadata.mirrors metadata.mirrors[].location metadata.mirrors[].state metadata.log_used metadata.log_size metadata.bad_superblocks metadata.scrubbed
scrub scrub.state scrub.position scrub.total scrub.rate scrub.last_finished
breaker breaker.state breaker.reason
features features.zero_copy features.auto_buf_reg features.batch_io features.recovery server_pid`

// TestJSON checks what scripts read: names, shapes, and that the numbers agree.
func TestJSON(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 3*time.Minute)
	d := newDisk(t, kindLoop, 48, 512)
	s := create(t, d, "--spare", "1MiB")
	lay := layoutOf(t, d)
	var none []status
	parse(t, remap(t, "status", "--json"), &none)
	if len(none) != 0 {
		t.Errorf("status --json of no devices: %+v", none)
	}
	if out := remap(t, "list", "--json").want(t, exitDone); out != "[]" {
		t.Errorf("list --json of no devices: %q, want []", out)
	}
	s.start(t, "--queues", "2", "--depth", "16")
	if out := remap(t, "remap", "list", s.dev, "--json").want(t, exitDone); out != "[]" {
		t.Errorf("remap list --json without remaps: %q, want []", out)
	}

	f := openUntilClosed(t, s.dev)
	f.fill(t, 0, 4<<20, 1)
	at := lay.head + 8<<20
	d.setBad(t, []extent{{at, 1024}, {at + 1<<20, 512}})
	f.fill(t, at, at+4096, 1)
	if err := f.read(aligned(512), at+1<<20); err != d.readErrno() {
		t.Errorf("read of a bad block: %v", err)
	}
	if err := f.flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	f.close()

	r := remap(t, "status", s.dev, "--json")
	names, want := jsonNames(t, r.want(t, exitDone)), strings.Fields(statusNames)
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
	var st status
	parse(t, r, &st)
	switch {
	case st.Device != s.dev, st.Name != s.name, len(st.UUID) != 36, st.State != "live",
		fmt.Sprintf("/dev/ublkb%d", st.ID) != s.dev,
		!sameFile(st.Backing, d.path), st.BlockSize != 512, st.SizeBlocks != lay.exported/512,
		st.Spare.Total != 256, st.Spare.Used != 1, st.Spare.Free != 255, st.Remaps != 1,
		st.Pending != 1, st.Lost != 0,
		st.Errors.Write == 0, st.Errors.Read == 0, st.Heals.Writes != 1,
		st.IO.Writes == 0, st.IO.WriteBytes < 4<<20, st.IO.Reads == 0, st.IO.Flushes == 0,
		st.Metadata.Version != 4, st.Metadata.Sequence == 0, len(st.Metadata.Mirrors) != 2,
		st.Metadata.LogSize == 0,
		st.Breaker.State != "closed", !st.Features.Recovery, st.ServerPID <= 1:
		t.Errorf("status: %+v", st)
	}
	rows := s.remaps(t)
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
		parse(t, remap(t, args...), &all)
		if len(all) != 1 || all[0]["device"] != s.dev || all[0]["name"] != s.name ||
			all[0]["uuid"] != st.UUID || all[0]["state"] != "live" {
			t.Errorf("%v: %v", args, all)
		}
	}
	for _, name := range []string{s.name, strings.TrimPrefix(s.dev, "/dev/"), fmt.Sprint(st.ID)} {
		var other status
		parse(t, remap(t, "status", name, "--json"), &other)
		if other.UUID != st.UUID {
			t.Errorf("status %s: %+v", name, other)
		}
	}
	for _, args := range [][]string{{"status"}, {"status", s.dev}, {"list"},
		{"remap", "list", s.dev}} {
		if out := remap(t, args...).want(t, exitDone); out == "" {
			t.Errorf("%v prints nothing", args)
		}
	}
	s.stop(t)
	var rep map[string]any
	parse(t, remap(t, "metadata", "check", d.path, "--json"), &rep)
	if len(rep) == 0 {
		t.Error("metadata check --json says nothing")
	}
	parse(t, remap(t, "metadata", "dump", d.path, "--json"), &rep)
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
	vmtest.NeedUblk(t)
	guard(t, 3*time.Minute)
	blank := newDisk(t, kindNull, 48, 512)
	withFS := newDisk(t, kindNull, 48, 512)
	mkfs(t, "ext4", withFS.path)
	d := newDisk(t, kindLoop, 48, 512)
	s := create(t, d, "--name", "codes")
	s.name = "codes"
	file := filepath.Join(t.TempDir(), "not-a-device")
	if err := os.WriteFile(file, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(code int, args ...string) {
		t.Helper()
		r := remap(t, args...)
		if r.code != code {
			t.Errorf("want exit code %d\n%s", code, r)
		}
		if code != exitDone && (r.stdout != "" || strings.TrimSpace(r.stderr) == "" ||
			len(lines(r.stderr)) != 1) {
			t.Errorf("an error is one line on standard error and nothing else\n%s", r)
		}
	}
	usage := func(args ...string) {
		t.Helper()
		if r := remap(t, args...); r.code != exitUsage || r.stdout != "" || r.stderr == "" {
			t.Errorf("want exit code %d\n%s", exitUsage, r)
		}
	}
	usage("no-such-verb")
	usage("create")
	usage("create", blank.path, "--no-such-flag")
	usage("create", blank.path, "--spare", "many")
	usage("create", blank.path, "--spare", "1000", "--yes")
	usage("start")
	usage("start", d.path, "--zero-copy=perhaps")
	usage("start", d.path, "--queues", "none")
	usage("metadata", "no-such-verb")

	try(exitNotFound, "start", "/dev/no-such-disk")
	try(exitNotFound, "start", "no-such-name")
	try(exitNotFound, "start", blank.path)
	try(exitNotFound, "stop", "/dev/ublkb77")
	try(exitNotFound, "status", "no-such-name")
	try(exitNotFound, "remap", "list", "no-such-name")
	try(exitNotFound, "metadata", "check", blank.path)
	try(exitNotFound, "metadata", "dump", "/dev/no-such-disk")

	try(exitRefused, "create", withFS.path, "--yes")
	try(exitRefused, "create", d.path, "--yes")
	fsck(t, "ext4", withFS.path)
	s.check(t)

	if vmtest.KernelVersion().Less(zeroCopyMin) {
		try(exitKernel, "start", d.path, "--zero-copy=on")
	}
	if found, _ := filepath.Glob("/dev/ublkb*"); len(found) != 0 {
		t.Errorf("a start that failed left %v", found)
	}

	s.start(t)
	try(exitRefused, "start", d.path)
	try(exitRefused, "create", d.path, "--yes", "--force")
	usage("remap", "add", s.dev, "x")
	usage("remap", "add", s.dev, "999999999+1")
	usage("remap", "add", s.dev)
	// In use: stop refuses, and the device goes on.
	mkfs(t, "ext4", s.dev)
	dir := mount(t, "ext4", s)
	try(exitRefused, "stop", s.dev)
	if err := os.WriteFile(dir+"/file", []byte("still here"), 0o600); err != nil {
		t.Error(err)
	}
	umount(t, dir)
	s.stop(t)

	// Damaged beyond the mirrors: the superblocks say v4, nothing else is whole.
	broken := newDisk(t, kindNull, 48, 512)
	remap(t, "create", broken.path, "--yes", "--name", "broken").want(t, exitDone)
	f := openUntilClosed(t, broken.path)
	size := f.size
	f.close()
	f = openUntilClosed(t, broken.path)
	f.fill(t, 128<<10, 1<<20, 9)
	f.fill(t, size-(2<<20), size-(64<<10), 9)
	f.close()
	if r := remap(t, "metadata", "check", broken.path); r.code != exitDamaged || r.stdout == "" ||
		r.stderr == "" {
		t.Errorf("want exit code %d and a report\n%s", exitDamaged, r)
	}
	try(exitDamaged, "start", broken.path)
	if found, _ := filepath.Glob("/dev/ublkb*"); len(found) != 0 {
		t.Errorf("a start that failed left %v", found)
	}

	for _, args := range [][]string{{"version"}, {"doctor"}, {"completion", "bash"}, {"--help"},
		{"start", "--help"}} {
		if out := remap(t, args...).want(t, exitDone); out == "" {
			t.Errorf("%v prints nothing", args)
		}
	}
	if out := remap(t, "doctor", "--json").want(t, exitDone); !json.Valid([]byte(out)) {
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
