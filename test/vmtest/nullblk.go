package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var pid = os.Getpid()

const nullbRoot = "/sys/kernel/config/nullb"

// NullBlk is a null_blk device that keeps its data in memory and has bad
// sectors: they answer EIO to reads and writes. See
// Documentation/block/null_blk.rst.
type NullBlk struct {
	// Path of the block device.
	Path string
	dir  string // in configfs
}

// NullBlkOptions are the choices of a null_blk device.
type NullBlkOptions struct {
	// SizeMiB is the size; 0 is 64.
	SizeMiB int
	// BlockSize is 512 or 4096; 0 is 512.
	BlockSize int
	// Bad are the bad sectors at the start.
	Bad []Extent
	// Attrs are further configfs attributes, such as "submit_queues": "4".
	Attrs map[string]string
}

var nullCount atomic.Int64

// NewNullBlk makes a null_blk device.
func NewNullBlk(t testing.TB, o NullBlkOptions) *NullBlk {
	t.Helper()
	Modprobe(t, "null_blk", "nr_devices=0")
	if _, err := os.Stat(nullbRoot); err != nil {
		lacking(t, "null_blk: %v", err)
	}
	name := fmt.Sprintf("vmtest%d_%d", pid, nullCount.Add(1))
	n := &NullBlk{dir: filepath.Join(nullbRoot, name)}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.set(t, "power", "0")
		if err := retry(10*time.Second, func() error { return os.Remove(n.dir) }); err != nil {
			t.Errorf("null_blk: %v", err)
		}
	})
	n.set(t, "memory_backed", "1")
	n.set(t, "size", fmt.Sprint(orDefault(o.SizeMiB, 64)))
	n.set(t, "blocksize", fmt.Sprint(orDefault(o.BlockSize, 512)))
	for k, v := range o.Attrs {
		n.set(t, k, v)
	}
	n.AddBad(t, o.Bad...)
	n.set(t, "power", "1")
	n.Path = n.device(t, name)
	return n
}

func orDefault(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// device waits for the node. Since Linux 6.2 the disk is named after the
// configfs directory, before that by its index.
func (n *NullBlk) device(t testing.TB, name string) string {
	t.Helper()
	index, err := os.ReadFile(filepath.Join(n.dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	var path string
	err = retry(10*time.Second, func() error {
		for _, p := range []string{"/dev/" + name,
			"/dev/nullb" + strings.TrimSpace(string(index))} {
			if st, err := os.Stat(p); err == nil && st.Mode()&os.ModeDevice != 0 {
				path = p
				return nil
			}
		}
		return fmt.Errorf("null_blk %s: no device node", name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *NullBlk) set(t testing.TB, attr, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, attr), []byte(value), 0); err != nil {
		t.Errorf("null_blk: %s=%s: %v", attr, value, err)
	}
}

// AddBad makes sectors bad, also of a live device.
func (n *NullBlk) AddBad(t testing.TB, extents ...Extent) {
	t.Helper()
	for _, e := range extents {
		n.set(t, "badblocks", fmt.Sprintf("+%d-%d", e.Start, e.Start+e.Count-1))
	}
}

// RemoveBad makes sectors good again.
func (n *NullBlk) RemoveBad(t testing.TB, extents ...Extent) {
	t.Helper()
	for _, e := range extents {
		n.set(t, "badblocks", fmt.Sprintf("-%d-%d", e.Start, e.Start+e.Count-1))
	}
}
