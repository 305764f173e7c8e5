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
// names: those in spares, then any that the machine has. Every device must be
// the one that was in use last; else the error is a *DeviceError that says which
// is wanted.
func Open(ctx context.Context, path string, spares []string, o blockdev.Options) (*Set, error) {
	d, err := blockdev.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s := &Set{Devices: []*blockdev.Device{d}}
	if s.Superblock, err = probe(d); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	}
	if err := s.checkBacking(ctx, spares); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.openSpares(ctx, spares, o, nil); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Gather opens what belongs together for a repair or a restore: devices that are
// named may have lost their superblocks. hint is a superblock of the set's
// backing from elsewhere, or nil. Superblock is the newest that is known, nil if
// there is none at all. Devices that carry another superblock than they should
// are refused as in Open.
func Gather(ctx context.Context, path string, spares []string, hint *metadata.Superblock,
	o blockdev.Options) (*Set, error) {
	d, err := blockdev.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s := &Set{Devices: []*blockdev.Device{d}}
	own, err := probe(d)
	switch {
	case errors.Is(err, metadata.ErrUnsupported), errors.Is(err, metadata.ErrPath):
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	case err == nil && own.DeviceIndex != 0:
		s.Superblock = own
		return nil, errors.Join(s.checkBacking(ctx, spares), s.Close())
	case err == nil && hint != nil && own.UUID != hint.UUID:
		return nil, errors.Join(&DeviceError{Path: path, Err: metadata.ErrForeign,
			What: fmt.Sprintf("it is the backing of %s, and the backing of %s is wanted",
				setName(own), setName(hint)),
			Do: "name the disk that the backup was made of",
		}, s.Close())
	case err == nil:
		s.Superblock = own
	default:
		own = nil
		s.Superblock = hint
	}
	if s.Superblock == nil {
		// The spare devices know what the set is.
		for _, spare := range spares {
			if sb, err := Identify(ctx, spare); err == nil &&
				(s.Superblock == nil || sb.Generation > s.Superblock.Generation) {
				s.Superblock = sb
			}
		}
	}
	if s.Superblock == nil {
		for _, spare := range spares {
			d, err := blockdev.Open(ctx, spare, o)
			if err != nil {
				return nil, errors.Join(err, s.Close())
			}
			s.Devices = append(s.Devices, d)
		}
		return s, nil
	}
	bare := &bareDevices{backing: own != nil}
	if err := s.openSpares(ctx, spares, o, bare); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// bareDevices makes openSpares take devices without superblocks.
type bareDevices struct {
	backing bool // the backing has one: epochs can be compared
	devices []*blockdev.Device
}

// checkBacking refuses a device that is not the backing, or not any more.
func (s *Set) checkBacking(ctx context.Context, spares []string) error {
	d, sb := s.Devices[0], s.Superblock
	if sb.DeviceIndex != 0 {
		do := "name the backing disk"
		for _, path := range spares {
			if other, err := Identify(ctx, path); err == nil && other.UUID == sb.UUID &&
				other.DeviceIndex == 0 {
				do += ", which is " + path
			}
		}
		return &DeviceError{Path: d.Path(), Err: metadata.ErrForeign,
			What: fmt.Sprintf("it is a spare device of %q", sb.Name), Do: do}
	}
	if sb.Transition != metadata.TransitionNone || metadata.Front(d) {
		return nil
	}
	// The superblock at the end is what is left of it. A file system that was
	// made on the disk since would look like this too.
	if found := Marks(d); found != "" {
		return &DeviceError{Path: d.Path(), Err: ErrUnfit,
			What: fmt.Sprintf("only the superblock at its end is left of %q, and there is %s on "+
				"it: it may have been put to another use since", sb.Name, found),
			Do: "erase what should not be there (wipefs), and then: ublk-remap metadata repair",
		}
	}
	return nil
}

func (s *Set) openSpares(ctx context.Context, spares []string, o blockdev.Options,
	bare *bareDevices) error {
	want := s.Superblock.Devices[1:]
	if len(spares) > len(want) {
		return &DeviceError{Path: spares[len(want)], Err: metadata.ErrForeign,
			What: fmt.Sprintf("%d spare devices were given, %q has %d", len(spares),
				s.Superblock.Name, len(want)),
			Do: "leave out what does not belong to it",
		}
	}
	s.Devices = append(s.Devices, make([]*blockdev.Device, len(want))...)
	take := func(path string) error {
		d, err := blockdev.Open(ctx, path, o)
		if err != nil {
			return err
		}
		sb, err := probe(d)
		if bare != nil && err != nil && !errors.Is(err, metadata.ErrUnsupported) &&
			!errors.Is(err, metadata.ErrPath) {
			bare.devices = append(bare.devices, d)
			return nil
		}
		at := 0
		if err == nil || errors.Is(err, metadata.ErrNotFound) ||
			errors.Is(err, metadata.ErrDamaged) {
			at, err = s.fits(d, sb, err, bare == nil || bare.backing)
		} else {
			err = fmt.Errorf("%s: %w", path, err)
		}
		if err == nil && s.Devices[at] != nil {
			err = &DeviceError{Path: path, Err: ErrUnfit,
				What: fmt.Sprintf("it is the same as %s, or one is a clone of the other",
					s.Devices[at].Path()),
				Do: "name each device once, and no clone"}
		}
		if err != nil {
			return errors.Join(err, d.Close())
		}
		s.Devices[at] = d
		return nil
	}
	for _, path := range spares {
		if err := take(path); err != nil {
			return err
		}
	}
	for i := range want {
		if s.Devices[i+1] != nil {
			continue
		}
		if bare != nil && len(bare.devices) > 0 {
			s.Devices[i+1], bare.devices = bare.devices[0], bare.devices[1:]
			continue
		}
		path, err := s.findSpare(ctx, i+1, bare == nil || bare.backing)
		if err != nil {
			return err
		}
		if err := take(path); err != nil {
			return err
		}
	}
	if bare != nil {
		// more than there is room for, as it turns out
		s.Devices = append(s.Devices, bare.devices...)
	}
	return nil
}

// findSpare looks for a spare device among the machine's block devices. Clones
// that are out of date do not count if the device itself is there.
func (s *Set) findSpare(ctx context.Context, index int, epochs bool) (string, error) {
	copies, silent, err := search(ctx, findLimit, func(sb *metadata.Superblock) bool {
		return sb.UUID == s.Superblock.UUID && int(sb.DeviceIndex) == index
	})
	if err != nil {
		return "", err
	}
	var fit []found
	var last error
	for _, c := range copies {
		if last = s.current(c.path, c.sb, epochs); last == nil {
			fit = append(fit, c)
		}
	}
	wanted := s.wanted(index)
	switch {
	case len(fit) == 1:
		return fit[0].path, nil
	case len(fit) > 1:
		return "", &DeviceError{Path: s.Devices[0].Path(), Err: ErrAmbiguous,
			What: fmt.Sprintf("%s all claim to be %s: all but one are clones, or other ways to "+
				"the same device", strings.Join(describe(fit), ", "), wanted),
			Do: "name it with --spare-device"}
	case last != nil:
		return "", last
	}
	where := " is on no block device here"
	if len(silent) > 0 {
		where += fmt.Sprintf(" that answers; %s did not, or only with errors, within %s",
			strings.Join(silent, ", "), findLimit)
	}
	return "", &DeviceError{Path: s.Devices[0].Path(), Err: metadata.ErrNotFound,
		What: wanted + where,
		Do:   "attach it, or name it with --spare-device"}
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

// FindBy is Find for a disk that is known by something else in its superblock.
func FindBy(ctx context.Context, match func(*metadata.Superblock) bool) (string, error) {
	return find(ctx, match)
}

// findLimit is how long the devices that are looked at may take to answer. One
// that hangs must not keep those that do not from being found.
const findLimit = 10 * time.Second

func find(ctx context.Context, match func(*metadata.Superblock) bool) (string, error) {
	found, silent, err := search(ctx, findLimit, match)
	switch {
	case err != nil:
		return "", err
	case len(found) > 1:
		return "", fmt.Errorf("%w: %s; name the device that was in use last, and see that the "+
			"others are not attached", ErrAmbiguous, strings.Join(describe(found), ", "))
	case len(found) == 0 && len(silent) > 0:
		return "", fmt.Errorf("%w on any block device that answers; %s did not, or only with "+
			"errors, within %s", metadata.ErrNotFound, strings.Join(silent, ", "), findLimit)
	case len(found) == 0:
		return "", fmt.Errorf("%w on any block device", metadata.ErrNotFound)
	}
	return found[0].path, nil
}

// hasty is a device that is not waited for: one that has nothing to do with what is looked
// for may be away for good.
type hasty struct{ metadata.Device }

// glance is Identify for a device that may be anything.
func glance(ctx context.Context, path string) (*metadata.Superblock, error) {
	d, err := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if d.Size() < metadata.RegionStart {
		return nil, metadata.ErrNotFound
	}
	return metadata.Probe(hasty{d})
}

// search looks through the machine's block devices, and also returns those that
// did not answer within limit, or could not be asked, both in order of their paths.
func search(ctx context.Context, limit time.Duration,
	match func(*metadata.Superblock) bool) (hits []found, silent []string, err error) {
	paths, err := candidates("/sys/class/block")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", metadata.ErrNotFound, err)
	}
	answers := make(chan found, len(paths)) // nobody waits to give one
	waiting := map[string]bool{}
	var mute []string
	for _, path := range paths {
		waiting[path] = true
		go func() {
			sb, err := glance(ctx, path)
			if errors.Is(err, metadata.ErrPath) {
				answers <- found{path: path, mute: true}
				return
			}
			if err != nil || !match(sb) {
				sb = nil
			}
			answers <- found{path: path, sb: sb}
		}()
	}
	over := time.After(limit)
	for late := false; len(waiting) > 0 && !late; {
		select {
		case a := <-answers:
			delete(waiting, a.path)
			if a.mute {
				mute = append(mute, a.path)
			}
			if a.sb != nil {
				hits = append(hits, a)
			}
		case <-over:
			late = true
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	slices.SortFunc(hits, func(a, b found) int { return strings.Compare(a.path, b.path) })
	silent = append(mute, slices.Sorted(maps.Keys(waiting))...)
	slices.Sort(silent)
	return hits, silent, nil
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
		if strings.HasPrefix(name, "ublkb") || strings.HasPrefix(name, "ram") ||
			strings.HasPrefix(name, "zram") {
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
