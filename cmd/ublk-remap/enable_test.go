package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/config"
)

// useSystemctl gives the test a systemctl that makes and removes the links of units, or fails.
func useSystemctl(t *testing.T, fails bool) {
	t.Helper()
	bin := t.TempDir()
	was := wantsDir
	wantsDir = filepath.Join(t.TempDir(), "wants")
	t.Cleanup(func() { wantsDir = was })
	script := "#!/bin/sh\necho 'Failed to enable unit: Read-only file system' >&2\nexit 1\n"
	if !fails {
		script = fmt.Sprintf(`#!/bin/sh
mkdir -p '%[1]s'
case "$2" in
enable) ln -s /lib/unit '%[1]s'/"$3" ;;
disable) rm '%[1]s'/"$3" ;;
*) exit 3 ;;
esac
`, wantsDir)
	}
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// enabled runs a verb with --json.
func enabled(t *testing.T, args ...string) (s enabledState) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustRun(t, 0, append(args, "--json")...).out), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEnable(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	useSystemctl(t, false)
	dir := filepath.Join(t.TempDir(), "etc")
	t.Setenv(config.DirEnv, dir)
	disk := diskFile(t, 64<<20)
	mustRun(t, 0, "create", disk, "--name", "data")
	spare := "./relative disk"
	s := enabled(t, "enable", disk, "--queues", "2", "--fail-fast=30s", "--spare-device", spare,
		"--huge-pages")
	abs, err := filepath.Abs(spare)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "data" || !s.Enabled || !s.Written || s.File != dir+"/data.toml" ||
		s.Unit != "ublk-remap@data.service" || s.Device != "" {
		t.Errorf("%+v", s)
	}
	text, err := os.ReadFile(s.File)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"uuid = \"", "backing = \"" + disk + "\"\n", "queues = 2\n",
		"fail-fast = \"30s\"\n", "huge-pages = true\n",
		"spare-device = [\"" + abs + "\"]\n"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("%q is not in\n%s", line, text)
		}
	}
	mustRun(t, 0, "config", "check")
	if names, err := enabledNames(); err != nil || !names["data"] || len(names) != 1 {
		t.Error(names, err)
	}
	// Enable it again by its name. The file leads to the disk, and stays as it is.
	if err := os.WriteFile(s.File, append(text, "# mine\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, 0, "disable", "data")
	if s := enabled(t, "enable", "data"); s.Written || !s.Enabled {
		t.Errorf("%+v", s)
	}
	if r := mustRun(t, exit.Refused, "enable", "data", "--queues=3"); !strings.Contains(r.err,
		"write queues = 3 into it") {
		t.Error(r.err)
	}
	if now, err := os.ReadFile(s.File); err != nil || string(now) != string(text)+"# mine\n" {
		t.Errorf("%s, %v", now, err)
	}
	// The file stays when the set is disabled.
	if s := enabled(t, "disable", disk); s.Enabled || s.File == "" {
		t.Errorf("%+v", s)
	}
	if names, err := enabledNames(); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
	// Files with errors, and files of other sets, are not enabled.
	if err := os.WriteFile(s.File, []byte("quues = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exit.Usage, "enable", disk)
	if err := os.WriteFile(s.File, []byte("uuid = \"0198b1f2-0000-7000-8000-000000000001\"\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exit.Refused, "enable", disk)
	if names, err := enabledNames(); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
	mustRun(t, exit.NotFound, "disable", "nosuch")
	mustRun(t, exit.NotFound, "enable", "nosuch")
	mustRun(t, exit.NotFound, "enable", "/no/such/disk")
	mustRun(t, exit.Usage, "enable", disk, "--queues=65")
}

// If the unit cannot be enabled, nothing is left behind. If the file cannot be written, the unit is
// not enabled.
func TestEnableFails(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	useSystemctl(t, true)
	dir := filepath.Join(t.TempDir(), "etc")
	t.Setenv(config.DirEnv, dir)
	disk := diskFile(t, 64<<20)
	mustRun(t, 0, "create", disk, "--name", "data")
	if r := mustRun(t, exit.Failed, "enable", disk); !strings.Contains(r.err,
		"Read-only file system; nothing was changed") {
		t.Error(r.err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	// The directory was there before, with other files.
	other := filepath.Join(dir, "other.toml")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exit.Failed, "enable", disk)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	useSystemctl(t, false)
	t.Setenv(config.DirEnv, filepath.Join(other, "no-directory"))
	mustRun(t, exit.NotFound, "enable", disk) // below a file
	if names, err := enabledNames(); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
	t.Setenv(config.DirEnv, dir)
	t.Setenv("PATH", t.TempDir())
	mustRun(t, exit.Unsupported, "enable", disk)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// A name that no unit can have is refused, and the message says what to do.
func TestEnableNames(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	useSystemctl(t, false)
	useConfigDir(t, nil)
	for _, name := range []string{"a@b", "ü", "a\\x2db", "a+b", "a%i", "a$b"} {
		disk := diskFile(t, 64<<20)
		mustRun(t, 0, "create", disk, "--name", name)
		if r := mustRun(t, exit.Usage, "enable", disk); !strings.Contains(r.err,
			"no unit can be called so") || !strings.Contains(r.err, "ublk-remap start") {
			t.Errorf("%q: %s", name, r.err)
		}
		mustRun(t, exit.Usage, "disable", name)
	}
	for _, name := range []string{"my-disk.2", "a:b_c"} {
		disk := diskFile(t, 64<<20)
		mustRun(t, 0, "create", disk, "--name", name)
		mustRun(t, 0, "enable", disk)
	}
	if names, err := enabledNames(); err != nil || len(names) != 2 || !names["my-disk.2"] {
		t.Error(names, err)
	}
}
