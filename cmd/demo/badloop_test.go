package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// badloopTable runs badloop's dry run, which needs neither root nor a kernel
// with device mapper.
func badloopTable(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	for _, tool := range []string{"bash", "awk", "sort", "stat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("badloop is a shell script: %v", err)
		}
	}
	cmd := exec.Command("../../scripts/badloop", append([]string{"table"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return string(out), err
}

// readTable checks that a table covers a device of so many 512-byte sectors
// without a gap, and returns the bad ones in sectors of k × 512 bytes.
func readTable(t *testing.T, table string, total, k int64) []int64 {
	t.Helper()
	var at int64
	var bad []int64
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		var start, count int64
		if _, err := fmt.Sscan(line, &start, &count); err != nil || start != at || count <= 0 ||
			count%k != 0 {
			t.Fatalf("at sector %d: %q", at, line)
		}
		switch {
		case len(f) == 5 && f[2] == "linear" && f[3] == "LOOP" && f[4] == f[0]:
		case len(f) == 3 && f[2] == "error":
			for s := start; s < start+count; s += k {
				bad = append(bad, s/k)
			}
		default:
			t.Fatalf("at sector %d: %q", at, line)
		}
		at += count
	}
	if at != total {
		t.Fatalf("the table ends at sector %d of %d", at, total)
	}
	return bad
}

func TestBadloopTable(t *testing.T) {
	for _, c := range []struct {
		name, args string
		sectors, k int64
		bad        int
	}{
		{"count", "-c 100 -S 16M", 32768, 1, 100},
		{"no bad sector", "-c 0 -S 16M", 32768, 1, 0},
		{"runs", "-c 333 -r 8 -S 16M", 32768, 1, 333},
		{"large blocks", "-c 33 -r 3 -b 4096 -S 16M", 32768, 8, 33},
		{"percent", "-p 0.5 -S 16M", 32768, 1, 164},
		{"a third", "-p 33 -g 0 -S 4M", 8192, 1, 2703},
		{"beyond 2^31 sectors", "-c 1000 -S 4T", 1 << 33, 1, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Fields(c.args)
			table, err := badloopTable(t, "", args...)
			if err != nil {
				t.Fatal(err)
			}
			bad := readTable(t, table, c.sectors, c.k)
			if len(bad) != c.bad {
				t.Errorf("%d bad sectors, not %d", len(bad), c.bad)
			}
			if !strings.Contains(c.args, "-g") {
				guard := int64(1<<20) / 512 / c.k
				for _, s := range bad {
					if s < guard || s >= c.sectors/c.k-guard {
						t.Errorf("sector %d is bad, and within the guard", s)
					}
				}
			}
			again, err := badloopTable(t, "", args...)
			if err != nil || again != table {
				t.Errorf("the same seed gave another table (%v)", err)
			}
			if c.bad > 0 {
				other, err := badloopTable(t, "", append(args, "-s", "2")...)
				if err != nil || other == table {
					t.Errorf("another seed gave the same table (%v)", err)
				}
			}
		})
	}
}

// The choice must not change between versions, because people note seeds down.
func TestBadloopSeedIsPortable(t *testing.T) {
	table, err := badloopTable(t, "", "-c", "5", "-S", "10M", "-s", "3")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(readTable(t, table, 20480, 1)),
		"[2893 5134 7437 10347 11978]"; got != want {
		t.Errorf("seed 3 chose %s, not %s", got, want)
	}
}

func TestBadloopList(t *testing.T) {
	table, err := badloopTable(t, "# a comment\n5+3\n2-4\n\n9 # another\n 0\n3\n", "-f", "-", "-S",
		"1M")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(readTable(t, table, 2048, 1)), "[0 2 3 4 5 6 7 9]"; got != want {
		t.Errorf("bad sectors %s, not %s", got, want)
	}
}

func TestBadloopRefuses(t *testing.T) {
	for _, c := range []struct{ name, stdin, args, says string }{
		{"beyond the end", "2048\n", "-f - -S 1M", "2048 sectors"},
		{"range beyond the end", "7-2048\n", "-f - -S 1M", "2048 sectors"},
		{"no number", "seven\n", "-f - -S 1M", "line 1"},
		{"backwards", "9-7\n", "-f - -S 1M", "empty range"},
		{"negative", "-7\n", "-f - -S 1M", "line 1"},
		{"two ways", "", "-c 3 -p 1", "one is enough"},
		{"too many", "", "-c 30000 -S 16M", "more than half"},
		{"too small", "", "-c 1 -S 2M", "nothing is left"},
		{"no list", "", "-f /nonexistent", "cannot read"},
		{"odd block", "", "-b 520", "512 or 4096"},
		{"no percentage", "", "-p 1%", "such as 0.5"},
		{"no count", "", "-c many", "whole number"},
		{"no such option", "", "-z", "no option -z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := badloopTable(t, c.stdin, strings.Fields(c.args)...)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q, %v; wanted an error with %q", out, err, c.says)
			}
		})
	}
}

func TestBadloopTakesTheFilesSize(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	table, err := badloopTable(t, "", "-c", "7", "-S", "16M", image)
	if err != nil {
		t.Fatal(err)
	}
	if bad := readTable(t, table, 3<<20/512, 1); len(bad) != 7 {
		t.Errorf("%d bad sectors, not 7", len(bad))
	}
}
