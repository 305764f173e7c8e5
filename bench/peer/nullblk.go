package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// Disk says what a backing disk is like.
type Disk struct {
	// Bytes is its size, in whole MiB. Memory is taken for what was written only.
	Bytes int64
	// BlockSize is 512 or 4096.
	BlockSize int
	// Queues is the number of hardware queues, clamped to the number of CPUs.
	Queues int
	// Depth is the number of requests in flight of each queue.
	Depth int
	// CacheMiB is the size of its volatile cache; 0: none. Without one the kernel drops
	// flushes before they reach any driver.
	CacheMiB int
}

// NullBlk is a disk of null_blk's that keeps what is written in memory; see
// Documentation/block/null_blk.rst.
type NullBlk struct {
	Path string
	dir  string // in configfs
}

const nullbRoot = "/sys/kernel/config/nullb"

var nullCount atomic.Int64

// NewNullBlk makes a disk.
func NewNullBlk(ctx context.Context, d Disk) (*NullBlk, error) {
	if err := modprobe(ctx, "null_blk", "nr_devices=0"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	name := fmt.Sprintf("bench%d", nullCount.Add(1))
	n := &NullBlk{dir: filepath.Join(nullbRoot, name)}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		return nil, err
	}
	_ = n.set("poll_queues", "0") // since 5.14; nothing would use them
	err := errors.Join(
		// As for real disks (BLK_DEF_MAX_SECTORS_CAP of include/linux/blkdev.h). null_blk's default
		// is 127 KiB. The kernel splits a request of 128 KiB in two then, and io_uring hands a
		// request that must be split to a worker thread.
		n.set("max_sectors", "2560"),
		n.set("memory_backed", "1"),
		n.set("size", fmt.Sprint(d.Bytes>>20)),
		n.set("blocksize", fmt.Sprint(d.BlockSize)),
		n.set("submit_queues", fmt.Sprint(d.Queues)),
		n.set("hw_queue_depth", fmt.Sprint(d.Depth)),
		n.set("cache_size", fmt.Sprint(d.CacheMiB)),
		n.set("power", "1"),
	)
	if err == nil {
		var index []byte
		if index, err = os.ReadFile(filepath.Join(n.dir, "index")); err == nil {
			// Before Linux 6.2 it is named by its index.
			n.Path, err = waitBlock(ctx, "/dev/"+name,
				"/dev/nullb"+strings.TrimSpace(string(index)))
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *NullBlk) set(attr, value string) error {
	if err := os.WriteFile(filepath.Join(n.dir, attr), []byte(value), 0); err != nil {
		return fmt.Errorf("null_blk: %s=%s: %w", attr, value, err)
	}
	return nil
}

// AddBad makes sectors of 512 bytes bad: reads and writes answer EIO.
func (n *NullBlk) AddBad(first, count int64) error {
	return n.set("badblocks", fmt.Sprintf("+%d-%d", first, first+count-1))
}

// Close takes the disk away, with what is on it.
func (n *NullBlk) Close() error {
	_ = n.set("power", "0")
	if err := retry(func() error { return os.Remove(n.dir) }); err != nil {
		return fmt.Errorf("null_blk: %w", err)
	}
	return nil
}
