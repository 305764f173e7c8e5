package ublk_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"ublkremap/ublk"
)

// TestMain also runs the server that tests kill, and looks for what the tests left behind.
func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		os.Exit(serverMain())
	}
	before := openFiles()
	code := m.Run()
	if code == 0 {
		if err := leftovers(before); err != nil {
			fmt.Fprintln(os.Stderr, "left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func openFiles() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var files []string
	for _, e := range entries {
		if path, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files = append(files, path)
		}
	}
	return files
}

// leftovers says which devices and descriptors the tests left. Rings are closed by the
// kernel in the background.
func leftovers(before []string) error {
	if ctl, err := ublk.OpenControl(); err == nil {
		infos, err := ctl.List(context.Background())
		ctl.Close()
		if err != nil {
			return err
		}
		if len(infos) > 0 {
			return fmt.Errorf("devices: %+v", infos)
		}
	}
	var after []string
	for range 100 {
		if after = openFiles(); len(after) <= len(before) {
			return nil
		}
		// The runtime's own poller opens descriptors late.
		extra := 0
		for _, f := range after {
			if f == "anon_inode:[eventpoll]" || f == "anon_inode:[eventfd]" ||
				f == "anon_inode:[pidfd]" {
				extra++
			}
		}
		if len(after)-extra <= len(before) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("descriptors: before %q, after %q", before, after)
}
