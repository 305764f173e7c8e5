// Package set finds and opens the devices that belong together: a backing disk
// and its spare devices, as the superblocks name them.
//
// Devices that are not named on the command line are looked for among the
// machine's block devices, by their UUID. Nothing is written here.
package set

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// ErrAmbiguous is returned when several disks claim to be the one that is looked
// for: a disk and its copy, or one disk by two ways.
var ErrAmbiguous = errors.New("several disks claim it")

// Set is an open set.
type Set struct {
	Superblock *metadata.Superblock
	Devices    []*blockdev.Device // as in Superblock.Devices: the backing first
}

// Close lets the devices go.
func (s *Set) Close() error {
	var errs []error
	for _, d := range s.Devices {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	s.Devices = nil
	return errors.Join(errs...)
}

// Metadata returns the devices as package metadata wants them.
func (s *Set) Metadata() []metadata.Device {
	devs := make([]metadata.Device, len(s.Devices))
	for i, d := range s.Devices {
		devs[i] = d
	}
	return devs
}

// Identify reads the superblock of the device at path, without exclusive use.
// Errors: those of blockdev.Open and metadata.Probe, with the path.
func Identify(ctx context.Context, path string) (*metadata.Superblock, error) {
	d, err := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	sb, err := probe(d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return sb, nil
}

// probe is metadata.Probe, also for devices without any content, such as a loop
// device without a file.
func probe(d *blockdev.Device) (*metadata.Superblock, error) {
	if d.Size() < metadata.RegionStart {
		return nil, metadata.ErrNotFound
	}
	return metadata.Probe(d)
}

// Open opens the backing at path and the spare devices that its superblock
// names: those in spares, then any that the machine has. The error wraps
// metadata.ErrNotFound if one is missing.
func Open(ctx context.Context, path string, spares []string, o blockdev.Options) (*Set, error) {
	d, err := blockdev.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s := &Set{Devices: []*blockdev.Device{d}}
	if s.Superblock, err = probe(d); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	}
	if s.Superblock.DeviceIndex != 0 {
		return nil, errors.Join(fmt.Errorf("%s: %w: it is a spare device of %q; name the backing disk",
			path, metadata.ErrForeign, s.Superblock.Name), s.Close())
	}
	if err := s.openSpares(ctx, spares, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Set) openSpares(ctx context.Context, spares []string, o blockdev.Options) error {
	want := s.Superblock.Devices[1:]
	if len(spares) > len(want) {
		return fmt.Errorf("%s: %w: %d spare devices given, the set has %d", spares[len(want)], metadata.ErrForeign, len(spares), len(want))
	}
	s.Devices = append(s.Devices, make([]*blockdev.Device, len(want))...)
	take := func(path string) error {
		d, err := blockdev.Open(ctx, path, o)
		if err != nil {
			return err
		}
		sb, err := probe(d)
		switch {
		case err != nil:
		case sb.UUID != s.Superblock.UUID || sb.DeviceIndex == 0 || int(sb.DeviceIndex) > len(want):
			err = fmt.Errorf("%w: it is of %q", metadata.ErrForeign, sb.Name)
		case s.Devices[sb.DeviceIndex] != nil:
			err = fmt.Errorf("%w: the same as %s", metadata.ErrForeign, s.Devices[sb.DeviceIndex].Path())
		default:
			s.Devices[sb.DeviceIndex] = d
			return nil
		}
		return errors.Join(fmt.Errorf("%s: %w", path, err), d.Close())
	}
	for _, path := range spares {
		if err := take(path); err != nil {
			return err
		}
	}
	for i, info := range want {
		if s.Devices[i+1] != nil {
			continue
		}
		path, err := find(ctx, func(sb *metadata.Superblock) bool {
			return sb.UUID == s.Superblock.UUID && int(sb.DeviceIndex) == i+1
		})
		if err != nil {
			return fmt.Errorf("spare device %s of %q: %w; name it with --spare-device", info.UUID, s.Superblock.Name, err)
		}
		if err := take(path); err != nil {
			return err
		}
	}
	return nil
}

// Find looks for the backing disk of the set with that name or UUID among the
// machine's block devices. The error is metadata.ErrNotFound, or ErrAmbiguous if
// several disks claim the name.
func Find(ctx context.Context, name string) (string, error) {
	id, idErr := uuid.Parse(name)
	return find(ctx, func(sb *metadata.Superblock) bool {
		return sb.DeviceIndex == 0 && (sb.Name == name || idErr == nil && sb.UUID == id)
	})
}

// findLimit is how long the devices that are looked at may take to answer. One
// that hangs must not keep those that do not from being found.
const findLimit = 10 * time.Second

func find(ctx context.Context, match func(*metadata.Superblock) bool) (string, error) {
	paths, err := candidates("/sys/class/block")
	if err != nil {
		return "", fmt.Errorf("%w: %w", metadata.ErrNotFound, err)
	}
	type answer struct {
		path string
		hit  bool
	}
	answers := make(chan answer, len(paths)) // nobody waits to give one
	waiting := map[string]bool{}
	for _, path := range paths {
		waiting[path] = true
		go func() {
			sb, err := Identify(ctx, path)
			answers <- answer{path, err == nil && match(sb)}
		}()
	}
	var found []string
	limit := time.After(findLimit)
	for late := false; len(waiting) > 0 && !late; {
		select {
		case a := <-answers:
			delete(waiting, a.path)
			if a.hit {
				found = append(found, a.path)
			}
		case <-limit:
			late = true
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	slices.Sort(found)
	silent := slices.Sorted(maps.Keys(waiting))
	switch {
	case len(found) > 1:
		return "", fmt.Errorf("%w: %s; name the device, and see that the others are not attached", ErrAmbiguous, strings.Join(found, ", "))
	case len(found) == 0 && len(silent) > 0:
		return "", fmt.Errorf("%w on any block device that answers; %s did not within %s", metadata.ErrNotFound, strings.Join(silent, ", "), findLimit)
	case len(found) == 0:
		return "", fmt.Errorf("%w on any block device", metadata.ErrNotFound)
	}
	return found[0], nil
}

// candidates lists the block devices that can be a disk of a set.
func candidates(class string) ([]string, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, err
	}
	read := func(name, attr string) string {
		b, _ := os.ReadFile(filepath.Join(class, name, attr)) // nothing says nothing
		return strings.TrimSpace(string(b))
	}
	var paths []string
	for _, e := range entries {
		name := e.Name()
		// Served devices hide their superblocks; RAM disks have none.
		if strings.HasPrefix(name, "ublkb") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram") {
			continue
		}
		// Nothing is in it, or it waits for somebody to let it go on.
		if read(name, "size") == "0" || read(name, "dm/suspended") == "1" {
			continue
		}
		// What lies below another device shows the same superblock as that.
		if holders, _ := os.ReadDir(filepath.Join(class, name, "holders")); len(holders) > 0 {
			continue
		}
		paths = append(paths, devicePath(name))
	}
	return paths, nil
}

// devicePath is where the device of that name in sysfs is: for device-mapper
// devices, whose numbers mean nothing, by the name that they were given.
func devicePath(name string) string {
	if dm, err := os.ReadFile(filepath.Join("/sys/class/block", name, "dm/name")); err == nil {
		if path := filepath.Join("/dev/mapper", strings.TrimSpace(string(dm))); exists(path) {
			return path
		}
	}
	return filepath.Join("/dev", strings.ReplaceAll(name, "!", "/"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
