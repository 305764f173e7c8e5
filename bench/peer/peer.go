package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// Kind is what serves a device.
type Kind string

// The kinds.
const (
	Raw     Kind = "raw"     // nothing: the disk itself
	Loop    Kind = "loop"    // the kernel's loop driver, with direct I/O
	Linear  Kind = "linear"  // dm-linear
	Ublksrv Kind = "ublksrv" // the loop target of ublksrv
	Remap   Kind = "remap"   // ublk-remap
)

// Peer is a device to be made.
type Peer struct {
	// Name is what tables and plots call it.
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Zero says that it goes without copying (ublk only).
	Zero bool `json:"zero_copy"`
	// Program is the path of its server, or of what starts it (ublk only).
	Program string `json:"program,omitempty"`
	// Flags are further arguments of start (ublk-remap only).
	Flags []string `json:"flags,omitempty"`
	// Variant says that it is not as a user has it by default.
	Variant bool `json:"variant,omitempty"`
	// Scrub says that a scrub reads it while jobs run (ublk-remap only).
	Scrub bool `json:"scrub,omitempty"`
	// Table is what it is made with; nil: by create, as a user does it.
	Table *Table `json:"table,omitempty"`
}

// Device is a Peer that is there.
type Device struct {
	Peer Peer
	Path string
	// Disk is what lies below.
	Disk *NullBlk
	undo []func() error
	pids []int // of its server
}

// Make makes the disk and the device on it, which has at least bytes bytes. It returns
// ErrUnavailable if the machine lacks what that takes.
func Make(ctx context.Context, p Peer, d Disk, bytes int64) (*Device, error) {
	d.Bytes = bytes
	if p.Kind == Remap {
		t := Table{}
		if p.Table != nil {
			t = *p.Table
		}
		d.Bytes = t.Bytes(bytes)
	}
	disk, err := NewNullBlk(ctx, d)
	if err != nil {
		return nil, err
	}
	v := &Device{Peer: p, Disk: disk, undo: []func() error{disk.Close}}
	switch p.Kind {
	case Raw:
		v.Path = disk.Path
	case Loop:
		err = v.loop(ctx)
	case Linear:
		err = v.linear(ctx)
	case Ublksrv:
		err = v.ublksrv(ctx, d)
	case Remap:
		err = v.remap(ctx, d)
	default:
		err = fmt.Errorf("kind %q: %w", p.Kind, errors.ErrUnsupported)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", p.Name, err), v.Close())
	}
	return v, nil
}

// Close takes the device and its disk away.
func (v *Device) Close() error {
	var errs []error
	for _, f := range slices.Backward(v.undo) {
		errs = append(errs, f())
	}
	v.undo = nil
	return errors.Join(errs...)
}

func (v *Device) onClose(f func() error) { v.undo = append(v.undo, f) }

// later runs a program when the device is closed. It does so also after an interrupt.
func (v *Device) later(name string, args ...string) {
	v.onClose(func() error {
		return retry(func() error {
			_, err := run(context.Background(), name, args...)
			return err
		})
	})
}

func (v *Device) loop(ctx context.Context) error {
	_ = modprobe(ctx, "loop") // or built in
	out, err := run(ctx, "losetup", "--direct-io=on", "--show", "-f", v.Disk.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	v.Path = strings.TrimSpace(out)
	v.later("losetup", "-d", v.Path)
	// The driver falls back to the page cache without a word.
	dio, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(v.Path), "loop/dio"))
	if err == nil && strings.TrimSpace(string(dio)) != "1" {
		err = fmt.Errorf("%s has no direct I/O", v.Path)
	}
	return err
}

func (v *Device) linear(ctx context.Context) error {
	_ = modprobe(ctx, "dm_mod")
	size, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(v.Disk.Path), "size"))
	if err != nil {
		return err
	}
	name := "bench-" + filepath.Base(v.Disk.Path)
	table := fmt.Sprintf("0 %s linear %s 0\n", strings.TrimSpace(string(size)), v.Disk.Path)
	if _, err := runInput(ctx, table, "dmsetup", "create", name); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	v.later("dmsetup", "remove", "--retry", name)
	v.Path, err = waitBlock(ctx, "/dev/mapper/"+name)
	return err
}

var ublksrvID = regexp.MustCompile(`dev id (\d+):`)

func (v *Device) ublksrv(ctx context.Context, d Disk) error {
	if err := needUblk(ctx); err != nil {
		return err
	}
	if v.Peer.Program == "" {
		return fmt.Errorf("%w: no program ublk was found or named", ErrUnavailable)
	}
	args := []string{"add", "-t", "loop", "-f", v.Disk.Path, "-q", fmt.Sprint(d.Queues), "-d",
		fmt.Sprint(d.Depth)}
	if v.Peer.Zero {
		args = append(args, "-z")
	}
	out, err := run(ctx, v.Peer.Program, args...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m := ublksrvID.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("ublk add printed no number of a device: %q", out)
	}
	v.later(v.Peer.Program, "del", "-n", m[1])
	if v.Path, err = waitBlock(ctx, "/dev/ublkb"+m[1]); err != nil {
		return err
	}
	v.pids, err = holders(v.Disk.Path)
	return err
}

// kernelLacks is the exit code of ublk-remap on a kernel without what was asked for.
const kernelLacks = 5

func (v *Device) remap(ctx context.Context, d Disk) error {
	if err := needUblk(ctx); err != nil {
		return err
	}
	name := "bench-" + filepath.Base(v.Disk.Path)
	var err error
	if v.Peer.Table != nil {
		err = v.Peer.Table.write(ctx, v.Disk.Path, name)
	} else {
		_, err = run(ctx, v.Peer.Program, "create", v.Disk.Path, "--name", name)
	}
	if err != nil {
		return err
	}
	mode := "off"
	if v.Peer.Zero {
		mode = "on"
	}
	args := append([]string{"start", v.Disk.Path, "--queues", fmt.Sprint(d.Queues), "--depth",
		fmt.Sprint(d.Depth), "--zero-copy=" + mode}, v.Peer.Flags...)
	out, err := run(ctx, v.Peer.Program, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == kernelLacks {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err != nil {
		return err
	}
	path := strings.TrimSpace(out)
	v.later(v.Peer.Program, "stop", path)
	if v.Path, err = waitBlock(ctx, path); err != nil {
		return err
	}
	return v.checkMode(ctx)
}

// checkMode makes sure that what is measured is what the name says.
func (v *Device) checkMode(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	v.pids = []int{st.Server}
	if st.Features.Zero != v.Peer.Zero {
		return fmt.Errorf("%w: zero copy is %v, want %v", ErrStatus, st.Features.Zero, v.Peer.Zero)
	}
	if t := v.Peer.Table; t != nil {
		return v.WantRemaps(ctx, t.Remaps)
	}
	return nil
}

// ErrStatus is returned for a device that is not what was to be measured.
var ErrStatus = errors.New("ublk-remap status")

// status is what it says of itself.
type status struct {
	Remaps   int64 `json:"remaps"`
	Server   int   `json:"server_pid"`
	Features struct {
		Zero bool `json:"zero_copy"`
	} `json:"features"`
}

func (v *Device) status(ctx context.Context) (st status, err error) {
	out, err := run(ctx, v.Peer.Program, "status", v.Path, "--json")
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return st, fmt.Errorf("%w: %w", ErrStatus, err)
	}
	return st, nil
}

// WantRemaps returns ErrStatus unless n units live in the spare region.
func (v *Device) WantRemaps(ctx context.Context, n int64) error {
	st, err := v.status(ctx)
	if err == nil && st.Remaps != n {
		err = fmt.Errorf("%w: %d remaps, want %d", ErrStatus, st.Remaps, n)
	}
	return err
}

func needUblk(ctx context.Context) error {
	const ctl = "/dev/ublk-control"
	if _, err := os.Stat(ctl); err != nil {
		_ = modprobe(ctx, "ublk_drv")
	}
	if _, err := os.Stat(ctl); err != nil {
		return fmt.Errorf("%w: no ublk driver: %w", ErrUnavailable, err)
	}
	return nil
}

// sysfs is the device's directory in sysfs. Its number leads there: without udev the names of
// device mapper do not.
func (v *Device) sysfs() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(v.Path, &st); err != nil {
		return "", fmt.Errorf("%s: %w", v.Path, err)
	}
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// Completed is how many requests the device has completed; an fsync counts as a write.
// See Documentation/block/stat.rst.
func (v *Device) Completed() (int64, error) {
	dir, err := v.sysfs()
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	var sum int64
	for _, i := range []int{0, 4} { // reads, writes
		if i >= len(fields) {
			return 0, fmt.Errorf("%s/stat: %q", dir, text)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s/stat: %w", dir, err)
		}
		sum += n
	}
	return sum, nil
}

// HardwareQueues is how many queues the kernel made for the device; 0 if it has none,
// as a driver without requests of its own.
func (v *Device) HardwareQueues() int {
	dir, err := v.sysfs()
	if err != nil {
		return 0
	}
	entries, err := os.ReadDir(filepath.Join(dir, "mq"))
	if err != nil {
		return 0
	}
	return len(entries)
}

// Head returns where on the device (ublk-remap only) its blocks begin to be at
// the same place on its disk: those before it live elsewhere.
func (v *Device) Head(ctx context.Context) (int64, error) {
	d, err := blockdev.Open(ctx, v.Disk.Path, blockdev.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return 0, err
	}
	defer d.Close()
	sb, err := metadata.Probe(d)
	if err != nil {
		return 0, err
	}
	return sb.HeadBytes, nil
}
