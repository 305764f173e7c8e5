package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// TestExport exports a stopped set, of which some blocks are pending.
func TestExport(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	list := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(list, []byte("1000\n1001\n1003\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, 0, "create", disk, "--badblocks", list, "--badblocks-size", "4096")
	export := func(args ...string) string {
		t.Helper()
		return mustRun(t, 0, append([]string{"export", disk, "--format"}, args...)...).out
	}
	for _, c := range []struct{ args, want string }{
		{"badblocks --block-size 4096", "1000\n1001\n1003\n"},
		{"badblocks --block-size 8192", "500\n501\n"},
		{"badblocks", "4000\n4001\n4002\n4003\n4004\n4005\n4006\n4007\n4012\n4013\n4014\n4015\n"},
		{"badblocks --block-size 4096 --offset 4096000", "0\n1\n3\n"},
		{"badblocks --block-size 4096 --offset 4097024", "0\n1\n2\n3\n"},
		{"badblocks --block-size 4096 --offset 4096000 --length 4096", "0\n"},
		{"badblocks --block-size 4096 --offset 1MiB --length 1MiB", ""},
	} {
		if got := export(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
	got := export("ddrescue", "--offset", "4096000", "--length", "20480")
	if !strings.HasSuffix(got,
		"status\n0x00000000  0x00002000  -\n0x00002000  0x00001000  +\n0x00003000  0x00001000  -\n"+
			"0x00004000  0x00001000  +\n") {
		t.Errorf("%s", got)
	}
	var rows []control.Remap
	if err := json.Unmarshal([]byte(export("json")), &rows); err != nil || len(rows) != 2 ||
		rows[0].State != "pending" || rows[0].Cause != "import" || rows[0].Spare != nil {
		t.Errorf("%+v, %v", rows, err)
	}
	lines := strings.Split(strings.TrimSpace(export("csv")), "\n")
	if len(lines) != 3 || lines[0] != "block,count,spare,state,cause,time" ||
		!strings.HasPrefix(lines[1], fmt.Sprintf("%d,%d,,pending,import,", rows[0].Block,
			rows[0].Count)) {
		t.Errorf("%q", lines)
	}
	table := export("dmsetup")
	if !strings.Contains(table, "\n8000 16 error\n8016 8 linear "+disk+" 8016\n8024 8 error\n") {
		t.Errorf("%s", table)
	}
}

func TestExportRefuses(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	mustRun(t, exit.NotFound, "export", disk, "--format", "json") // no set
	mustRun(t, 0, "create", disk)
	for _, args := range []string{
		"", "--format xml", "--format json --offset 1MiB", "--format dmsetup --remapped",
		"--format ddrescue --block-size 512", "--format badblocks --block-size 1000",
		"--format badblocks --offset 1TiB", "--format badblocks --length 1TiB",
		"--format badblocks --slow", "--format dmsetup --slow",
		"--format badblocks --offset 1%", "--format badblocks --offset x",
		"--format badblocks --offset 1", "--format badblocks --length 0",
		"--format ddrescue --length 513",
	} {
		r := ublkRemap(t, append([]string{"export", disk}, strings.Fields(args)...)...)
		if r.code != exit.Usage || r.out != "" {
			t.Errorf("%s: exit code %d, %s", args, r.code, r.out)
		}
	}
	mustRun(t, exit.NotFound, "export", disk+"x", "--format", "json")
}
