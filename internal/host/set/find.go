package set

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/sysfs"
	"ublkremap/metadata"
)

// findLimit is how long the examined devices may take to answer after the last one that did. A
// device that hangs must not keep the others from being found. On a machine that is busy, or has
// many devices, the answers come slowly, but they come.
const findLimit = 10 * time.Second

// Find looks for the backing disk of the set with that name or UUID among the machine's block
// devices, and returns its path and its superblock. The error is metadata.ErrNotFound, or
// ErrAmbiguous if several disks claim the name: a disk and an older copy of it do.
func Find(ctx context.Context, name string) (string, *metadata.Superblock, error) {
	id, idErr := uuid.Parse(name)
	return FindBy(ctx, func(sb *metadata.Superblock) bool {
		return sb.DeviceIndex == 0 && (sb.Name == name || idErr == nil && sb.UUID == id)
	})
}

// FindBy is Find for a disk that is known by another field of its superblock.
func FindBy(ctx context.Context,
	match func(*metadata.Superblock) bool) (string, *metadata.Superblock, error) {
	hits, unanswered, err := search(ctx, findLimit, "", match)
	switch {
	case err != nil:
		return "", nil, err
	case len(hits) > 1:
		return "", nil, fmt.Errorf("%w: %s; name the device that was in use last, and see that "+
			"the others are not attached", ErrAmbiguous, strings.Join(describe(hits), ", "))
	case len(hits) == 0 && len(unanswered) > 0:
		return "", nil, fmt.Errorf("%w on any block device that answers; %s did not, or only "+
			"with errors, within %s", metadata.ErrNotFound, strings.Join(unanswered, ", "),
			findLimit)
	case len(hits) == 0:
		return "", nil, fmt.Errorf("%w on any block device", metadata.ErrNotFound)
	}
	return hits[0].path, hits[0].sb, nil
}

// found is a device that was found.
type found struct {
	path string
	sb   *metadata.Superblock
}

// withoutClock hides the clock of a device (metadata.Clock), so that no failed read is tried
// again for seconds. A device that is not the one searched for may never come back.
type withoutClock struct{ metadata.Device }

// probeAny is Identify for a device that can be anything.
func probeAny(ctx context.Context, path string) (*metadata.Superblock, error) {
	d, err := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: true, Brief: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if d.Size() < metadata.RegionStart {
		return nil, metadata.ErrNotFound
	}
	return metadata.Probe(withoutClock{d})
}

// search examines the machine's block devices except the one at except. It also returns the devices
// that did not answer within limit (see probeAll), or could not be asked. Both lists are in the
// order of their paths.
func search(ctx context.Context, limit time.Duration, except string,
	match func(*metadata.Superblock) bool) (hits []found, unanswered []string, err error) {
	paths, err := candidates("/sys/class/block")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", metadata.ErrNotFound, err)
	}
	if except != "" {
		paths = slices.DeleteFunc(paths, func(p string) bool {
			return p == except || blockdev.SameDisk(p, except)
		})
	}
	for _, a := range probeAll(ctx, limit, paths, probeAny) {
		switch {
		case errors.Is(a.Err, ErrSilent), errors.Is(a.Err, metadata.ErrPath):
			unanswered = append(unanswered, a.Path)
		case a.Err == nil && match(a.Superblock):
			hits = append(hits, found{a.Path, a.Superblock})
		}
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	return hits, unanswered, nil
}

// ErrSilent is returned for a device that does not answer in time.
var ErrSilent = errors.New("it does not answer")

// Probed is what was found out about one device of this machine.
type Probed struct {
	Path       string
	Superblock *metadata.Superblock // nil if Err tells why it could not be read
	// Err is ErrSilent, an error of blockdev.Open or metadata.Probe, or nil.
	Err error
}

// ProbeAll examines all block devices of this machine that can be a disk of a set, and the files
// and devices at the paths in more, in the order of their paths. It leaves out those that carry no
// set. For a device that does not answer within some seconds it returns an error.
func ProbeAll(ctx context.Context, more []string) ([]Probed, error) {
	paths, err := candidates("/sys/class/block")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, m := range more {
		if !slices.ContainsFunc(paths, func(p string) bool {
			return p == m || blockdev.SameDisk(p, m)
		}) {
			paths = append(paths, m)
		}
	}
	all := slices.DeleteFunc(probeAll(ctx, findLimit, paths, probeAny), func(p Probed) bool {
		return p.Superblock == nil && !errors.Is(p.Err, ErrSilent) &&
			!errors.Is(p.Err, metadata.ErrPath) && !errors.Is(p.Err, metadata.ErrDamaged) &&
			!errors.Is(p.Err, metadata.ErrUnsupported)
	})
	return all, context.Cause(ctx)
}

// probeAll probes all devices at the same time. The answers are in the order of the paths. Devices
// are silent that have not answered when limit has passed without any answer.
func probeAll(ctx context.Context, limit time.Duration, paths []string,
	probe func(context.Context, string) (*metadata.Superblock, error)) []Probed {
	answers := make(chan Probed, len(paths)) // sending never blocks
	waiting := map[string]bool{}
	for _, path := range paths {
		waiting[path] = true
		go func() {
			sb, err := probe(ctx, path)
			answers <- Probed{path, sb, err}
		}()
	}
	var all []Probed
	// The limit is counted in parts, so that a pause of this process itself counts as one.
	const parts = 10
	for part := 0; len(waiting) > 0 && (part < parts || len(answers) > 0); {
		select {
		case a := <-answers:
			delete(waiting, a.Path)
			all = append(all, a)
			part = 0
		case <-time.After(limit / parts):
			part++
		case <-ctx.Done():
			return nil
		}
	}
	for path := range waiting {
		all = append(all, Probed{Path: path, Err: ErrSilent})
	}
	slices.SortFunc(all, func(a, b Probed) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// candidates lists the block devices that can be a disk of a set.
func candidates(class string) ([]string, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, err
	}
	read := func(name, attr string) string {
		text, _ := sysfs.Text(filepath.Join(class, name), attr) // no value is like an empty one
		return text
	}
	var paths []string
	for _, e := range entries {
		name := e.Name()
		// Served devices hide their superblocks; RAM disks have none.
		if strings.HasPrefix(name, "ublkb") || strings.HasPrefix(name, "ram") ||
			strings.HasPrefix(name, "zram") {
			continue
		}
		// The device is empty, or is suspended.
		if read(name, "size") == "0" || read(name, "dm/suspended") == "1" {
			continue
		}
		// A disk below another device shows the same superblock as that device.
		if holders, _ := os.ReadDir(filepath.Join(class, name, "holders")); len(holders) > 0 {
			continue
		}
		paths = append(paths, devicePath(name))
	}
	return paths, nil
}

// devicePath returns the path of the device with that name in sysfs. For a device-mapper device it
// is the device's given name, because its number has no meaning.
func devicePath(name string) string {
	if dm, err := sysfs.Text(filepath.Join("/sys/class/block", name), "dm/name"); err == nil {
		if path := filepath.Join("/dev/mapper", dm); exists(path) {
			return path
		}
	}
	return filepath.Join("/dev", strings.ReplaceAll(name, "!", "/"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
