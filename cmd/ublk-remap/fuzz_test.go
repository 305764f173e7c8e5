package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// FuzzBlocks reads BLOCK[+COUNT] as people type it.
func FuzzBlocks(f *testing.F) {
	f.Add("1", uint64(10))
	f.Add("4096+8", uint64(1<<40))
	f.Add("18446744073709551615+18446744073709551615", uint64(1<<63))
	f.Add("1+-1", uint64(5))
	f.Add("0x10+1", uint64(100))
	f.Add("+", uint64(1))
	f.Add("9+", uint64(0))
	f.Fuzz(func(t *testing.T, text string, blocks uint64) {
		ranges, err := parseRanges(strings.Fields(text), blocks)
		if err != nil {
			if !errors.Is(err, exit.ErrUsage) || ranges != nil {
				t.Fatal(ranges, err)
			}
			return
		}
		for _, r := range ranges {
			if r.Count == 0 || r.Block+r.Count <= r.Block || r.Block+r.Count > blocks {
				t.Fatalf("%+v of %d blocks", r, blocks)
			}
		}
	})
}

// FuzzDevice looks for devices by anything that people may call them. What is
// found is what was named: a verb that destroys something goes by it.
func FuzzDevice(f *testing.F) {
	dir, err := os.MkdirTemp("", "ur")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	f.Setenv(control.DirEnv, dir)
	for i, name := range []string{"one", "7", "ublkb1", "ümläut"} {
		r := control.Record{
			Name: name, UUID: fmt.Sprintf("00000000-0000-0000-0000-00000000000%d", i), ID: i,
			Device:  fmt.Sprintf("/dev/ublkb%d", i),
			Backing: fmt.Sprintf("/nosuch/%d", i), BlockSize: 512, Blocks: 100,
		}
		if err := r.Write(); err != nil {
			f.Fatal(err)
		}
	}
	for _, s := range []string{
		"one", "7", "1", "/dev/ublkb0", "ublkb0", "ublkb1", "/dev/ublkb+1", "01", "4294967296",
		"-1", "", "/dev/", "ublkb", "/nosuch/2", "../one", "one\x00", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dev string) {
		a := &app{log: zerolog.Nop(), ctx: context.Background()}
		r, err := a.host().Lookup(dev)
		if err != nil {
			if exit.Code(err) != exit.NotFound {
				t.Fatalf("%q: %v", dev, err)
			}
			return
		}
		number := strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(dev, "/dev/"), "ublkb"),
			"0")
		if number == "" {
			number = "0"
		}
		if dev != r.Name && dev != r.UUID && dev != r.Backing && number != fmt.Sprint(r.ID) {
			t.Fatalf("%q is taken for %+v", dev, r)
		}
	})
}
