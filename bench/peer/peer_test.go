package peer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

func TestParseStat(t *testing.T) {
	user, system, err := parseStat("12 (ublk) x 1 2) S 1 12 12 0 -1 4194560 100 0 0 0 150 275 0 " +
		"0 20 0 5 0 100 1000 10")
	if err != nil || user != 1.5 || system != 2.75 {
		t.Errorf("%v %v %v", user, system, err)
	}
	for _, line := range []string{"", "12 (x", "12 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b c"} {
		if _, _, err := parseStat(line); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}

func TestParseStatus(t *testing.T) {
	got, err := parseStatus(
		"Name:\tx y\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n")
	if want := (Thread{Name: "x y", Voluntary: 12, Involuntary: 3}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "voluntary_ctxt_switches:\t12\n",
		"voluntary_ctxt_switches:\tx\nnonvoluntary_ctxt_switches:\t3\n"} {
		if _, err := parseStatus(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// The counters of this very process are there and grow.
func TestUsage(t *testing.T) {
	v := &Device{pids: []int{os.Getpid()}}
	before, err := v.Usage()
	if err != nil {
		t.Fatal(err)
	}
	after, err := v.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if u := after.Sub(before); u.User < 0 || u.System < 0 || u.Voluntary < 0 ||
		before.Voluntary+before.Involuntary == 0 {
		t.Errorf("%+v, then %+v", before, after)
	}
	if u, err := (&Device{}).Usage(); err != nil || u != (Usage{}) {
		t.Errorf("a device of the kernel: %+v, %v", u, err)
	}
	if _, err := (&Device{pids: []int{-1}}).Usage(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a server that is gone: %v", err)
	}
}

func TestHoldersNone(t *testing.T) {
	if pids, err := holders("/dev/no-such-disk"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v", pids, err)
	}
}

// What is written as a table is what loads.
func TestTableWrite(t *testing.T) {
	for _, table := range []Table{{}, {Remaps: 1, Every: 100}, {Remaps: 1 << 10, First: 1,
		Every: 2}, {Remaps: 5000, First: 1, Every: 2}} {
		const exported = 8 << 20
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, table.Bytes(exported)); err != nil {
			t.Fatal(err)
		}
		if err := table.write(t.Context(), path, "table"); errors.Is(err, blockdev.ErrNoDirectIO) {
			t.Skip(err)
		} else if err != nil {
			t.Fatalf("%+v: %v", table, err)
		}
		d, err := blockdev.Open(t.Context(), path, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		img, err := metadata.Load([]metadata.Device{d})
		if err != nil {
			t.Fatalf("%+v: %v", table, err)
		}
		sb := img.Layout().Superblock()
		if sb.ExportedBytes < exported ||
			sb.ExportedBytes < (table.First+table.Remaps*table.Every)*metadata.UnitSize {
			t.Errorf("%+v exports %d bytes", table, sb.ExportedBytes)
		}
		units, spares := map[uint64]bool{}, map[uint32]bool{}
		if err := img.Replay(func(e metadata.Entry) error {
			if e.State != metadata.StateMapped || e.Count != 1 {
				t.Errorf("%+v", e)
			}
			units[e.Unit], spares[e.Spare] = true, true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if int64(len(units)) != table.Remaps || int64(len(spares)) != table.Remaps {
			t.Errorf("%+v: %d units in %d spare units", table, len(units), len(spares))
		}
		for i := range table.Remaps {
			if !units[uint64(table.First+i*table.Every)] {
				t.Fatalf("%+v: unit %d is not remapped", table, table.First+i*table.Every)
			}
		}
	}
}
