package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/test/vmtest"
	"ublkremap/ublk"
)

// prepare makes a set on a loop device.
func prepare(t *testing.T, blockSize uint32) string {
	t.Helper()
	vmtest.NeedUblk(t)
	dir, err := os.MkdirTemp("", "ur")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(control.DirEnv, dir)
	disk := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{BlockSize: blockSize})
	d, err := blockdev.Open(context.Background(), disk, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	plan, err := metadata.Plan(metadata.PlanParams{
		BackingSize: d.Size(), BlockSize: d.Geometry().LogicalBlock,
		PhysicalBlockSize: d.Geometry().PhysicalBlock, SpareBytes: 1 << 20, Name: "t",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := metadata.Create([]metadata.Device{d}, plan, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s, err := set.Open(context.Background(), disk, nil, blockdev.Options{ReadOnly: true,
			Wait: 10 * time.Second})
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		if report, err := metadata.Check(s.Metadata()); err != nil || !report.OK() {
			t.Errorf("check: %v\n%s", err, report.String())
		}
	})
	return disk
}

// serveHere runs a server in this process until the test ends.
func serveHere(t *testing.T, cfg Config) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	cfg.Ready = func(path string) { ready <- path }
	cfg.Log = zerolog.New(os.Stderr).Level(zerolog.WarnLevel)
	go func() { ended <- Run(ctx, cfg) }()
	select {
	case path := <-ready:
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return path
	case err := <-ended:
		cancel()
		t.Fatal(err)
		return ""
	}
}

var zeroCopy = vmtest.Feature{Name: "zero copy", Min: vmtest.V(6, 16), Has: func() (bool, error) {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return false, err
	}
	defer ctl.Close()
	have, err := ctl.Features(context.Background())
	return have.Has(ublk.FeatureAutoBufReg), err
}}

func TestIOAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		path ublk.Choice
	}{{"copy", ublk.Never}, {"zerocopy", ublk.Require}} {
		t.Run(c.name, func(t *testing.T) {
			disk := prepare(t, 512)
			if c.path == ublk.Require {
				vmtest.Require(t, zeroCopy)
			}
			dev := serveHere(t, Config{Backing: disk, ID: ublk.AnyID, Queues: 1, ZeroCopy: c.path})
			fd, err := unix.Open(dev, unix.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			buf, err := blockdev.Aligned(16 << 10)
			if err != nil {
				t.Fatal(err)
			}
			defer blockdev.Free(buf)
			ops := func(n int) {
				for i := range n {
					off := int64(i%1000) * 16384
					if _, err := unix.Pwrite(fd, buf, off); err != nil {
						t.Fatal(err)
					}
					if _, err := unix.Pread(fd, buf[:4096], off); err != nil {
						t.Fatal(err)
					}
				}
			}
			settling.Wait() // it makes garbage on purpose
			ops(200)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			const n = 1000
			ops(n)
			runtime.ReadMemStats(&after)
			// The runtime's own goroutines allocate a little.
			if got := after.Mallocs - before.Mallocs; got > n/10 {
				t.Errorf("%d allocations for %d I/Os", got, 2*n)
			}
		})
	}
}

func TestDeviceIsAsItsBacking(t *testing.T) {
	for _, blockSize := range []uint32{512, 4096} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			disk := prepare(t, blockSize)
			dev := serveHere(t, Config{Backing: disk, ID: ublk.AnyID, Queues: 2})
			read := func(dev, name string) string {
				b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(dev), "queue",
					name))
				if err != nil {
					t.Fatal(err)
				}
				return strings.TrimSpace(string(b))
			}
			for _, name := range []string{"logical_block_size", "physical_block_size",
				"minimum_io_size", "rotational", "discard_granularity"} {
				if got, want := read(dev, name), read(disk, name); got != want {
					t.Errorf("%s is %s, the backing's is %s", name, got, want)
				}
			}
			for name, want := range map[string]string{"write_cache": "write back", "fua": "1"} {
				if got := read(dev, name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			if got := read(dev, "write_zeroes_max_bytes"); got == "0" {
				t.Error("no write zeroes")
			}
		})
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	disk := prepare(t, 512)
	ctl, err := ublk.OpenControl()
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	ctx := context.Background()
	devices := func() int {
		list, err := ctl.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	none := devices()
	taken, err := ublk.Create(ctx, ctl, ublk.Config{ID: ublk.AnyID,
		Params: ublk.Params{Size: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Backing: disk, ID: taken.Info().ID, Log: zerolog.Nop()}
	if err := Run(ctx, cfg); !errors.Is(err, ublk.ErrExists) {
		t.Errorf("number taken: %v", err)
	}
	if err := taken.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	// Its socket cannot be made: something that is not a socket is in the way.
	if err := os.MkdirAll(filepath.Join(control.SocketPath("t"), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg.ID = ublk.AnyID
	if err := Run(ctx, cfg); err == nil {
		t.Error("started without a socket")
	}
	if err := os.RemoveAll(control.SocketPath("t")); err != nil {
		t.Fatal(err)
	}
	held, err := blockdev.Open(ctx, disk, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(ctx, cfg); !errors.Is(err, blockdev.ErrBusy) {
		t.Errorf("disk taken: %v", err)
	}
	held.Close()
	if n := devices(); n != none {
		t.Errorf("%d devices, there were %d", n, none)
	}
	if left, err := control.Records(); err != nil || len(left) > 0 {
		t.Errorf("records: %v, %v", left, err)
	}
	// After all that it still starts, once.
	serveHere(t, Config{Backing: disk, ID: ublk.AnyID})
	if err := Run(ctx, cfg); !errors.Is(err, host.ErrServed) {
		t.Errorf("second server: %v", err)
	}
}
