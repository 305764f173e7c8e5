package server

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBudget: a device that a machine cannot hold is refused, with a message that says so. A device
// that it can hold is not refused. An idle device with defaults stays small.
func TestBudget(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	free := func(total, available int64) memory {
		return memory{total: total,
			available: available}
	}
	for _, c := range []struct {
		name    string
		d       demand
		m       memory
		refused bool
	}{
		{"defaults on a small machine", demand{queues: 2, depth: 128, maxIO: 512 << 10,
			copied: true}, free(gib/2, 400<<20), false},
		{"defaults, full machine", demand{queues: 4, depth: 128, maxIO: 512 << 10, copied: true},
			free(2*gib, 140<<20), true},
		{"defaults without copies, full machine", demand{queues: 4, depth: 128, maxIO: 512 << 10},
			free(2*gib, 160<<20), false},
		{"the largest values", demand{queues: 64, depth: 1024, maxIO: 1 << 20, copied: true},
			free(2*gib, 2*gib), true},
		{"the largest values, large machine", demand{queues: 64, depth: 1024, maxIO: 1 << 20,
			copied: true}, free(256*gib, 250*gib), false},
		{"large values that are all there at once", demand{queues: 8, depth: 128, maxIO: 1 << 20,
			copied: true, fixed: true}, free(4*gib, gib), true},
		{"the same without copies", demand{queues: 8, depth: 128, maxIO: 1 << 20, fixed: true},
			free(4*gib, gib), false},
		{"more than could ever be there", demand{queues: 8, depth: 256, maxIO: 1 << 20,
			copied: true}, free(2*gib, 2*gib), true},
	} {
		err := c.d.check(c.m)
		if (err != nil) != c.refused || err != nil && !errors.Is(err, ErrMemory) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(),
			"--max-io")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, queues := range []int{1, 2, 4} {
		d := demand{queues: queues, depth: 128, maxIO: 512 << 10, copied: true}
		if n := d.tags() * int64(d.stay()); n > 8<<20 || d.stay() < 16<<10 {
			t.Errorf("%d queues: %d bytes stay, %d of each", queues, n, d.stay())
		}
	}
}

// TestHostShares: servers that start and grow one after another never take the last of the memory.
func TestHostShares(t *testing.T) {
	t.Parallel()
	m := memory{total: 4 << 30, available: 3900 << 20}
	d := demand{queues: 4, depth: 128, maxIO: 512 << 10, copied: true}
	n := 0
	for ; d.check(m) == nil; n++ {
		m.available -= d.atOnce()
	}
	if n < 64 || m.available < m.total/leaveShare {
		t.Errorf("%d devices, %d MiB are left", n, m.available>>20)
	}
	m.available = 4 << 30
	for range 1000 {
		m.available -= min(allowance(m), d.buffers())
	}
	if m.available < m.total/2 {
		t.Errorf("%d MiB are left", m.available>>20)
	}
}

func TestMemoryWithin(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a/memory.max", "1000000\n")
	write("a/memory.current", "400000\n")
	write("a/b/memory.max", "max\n")
	for _, c := range []struct {
		self string
		want memory
	}{
		{"0::/a/b\n", memory{1000000, 600000, true}},
		{"4:memory:/x\n0::/a\n", memory{1000000, 600000, true}},
		{"0::/\n", memory{9000000, 5000000, false}},
		{"0::/nowhere\n", memory{9000000, 5000000, false}},
	} {
		got := memory{total: 9000000, available: 5000000}
		got.within(root, c.self)
		if got != c.want {
			t.Errorf("%q: %+v, want %+v", c.self, got, c.want)
		}
	}
	if n := meminfo("MemTotal:  10 kB\nMemAvailable:       7 kB\n", "MemAvailable"); n != 7<<10 {
		t.Errorf("meminfo: %d", n)
	}
}
