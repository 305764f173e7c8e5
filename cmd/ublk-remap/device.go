package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/shell"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
)

// lookup finds the record of a device by what people call it: /dev/ublkbN,
// ublkbN, N, the name, the UUID or the backing.
func (a *app) lookup(dev string) (*control.Record, error) {
	records, err := control.Records()
	if errors.Is(err, control.ErrRefused) {
		return nil, err
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		a.log.Warn().Err(err).Msg("some runtime records are of no use")
	}
	number := strings.TrimPrefix(strings.TrimPrefix(dev, "/dev/"), "ublkb")
	id, idErr := strconv.ParseUint(number, 10, 31)
	// A name may look like a number; what was written as a name wins.
	for _, match := range []func(r *control.Record) bool{
		func(r *control.Record) bool { return r.Name == dev || r.UUID == dev },
		func(r *control.Record) bool { return idErr == nil && r.ID == int(id) },
		func(r *control.Record) bool {
			return r.Backing == dev || blockdev.SameDisk(r.Backing,
				dev)
		},
	} {
		for _, r := range records {
			if match(r) {
				return r, nil
			}
		}
	}
	if errors.Is(err, fs.ErrPermission) || os.Geteuid() != 0 && len(records) == 0 {
		return nil, fmt.Errorf("%s: cannot look into %s: %w", dev, control.Dir(), fs.ErrPermission)
	}
	return nil, fmt.Errorf("%s: %w: no device of this name, number or path runs here; see: "+
		"ublk-remap list", dev, exit.ErrNotFound)
}

// present reports whether the kernel still has the device of a record.
func present(r *control.Record) bool {
	_, err := os.Stat(filepath.Join("/sys/class/ublk-char", fmt.Sprintf("ublkc%d", r.ID)))
	return err == nil
}

// waitingOver returns the record of a device over a backing that is not served,
// for the backing could be opened, but still there; nil if there is none.
func waitingOver(backing string) *control.Record {
	records, _ := control.Records() // those that can be read
	for _, r := range records {
		if (r.Backing == backing || blockdev.SameDisk(r.Backing, backing)) && present(r) {
			return r
		}
	}
	return nil
}

// notServed refuses a disk whose set has a device: it, or what it is a copy or
// another view of, is being served, or I/O waits for a server.
func notServed(d *blockdev.Device) error {
	sb, err := metadata.Probe(d)
	if errors.Is(err, metadata.ErrPath) {
		return err // whose it is cannot be told
	}
	if sb == nil || err != nil {
		return nil
	}
	r, err := control.ReadRecord(sb.Name)
	if err != nil && control.Owned(sb.Name) {
		return fmt.Errorf("%s: %w: a server of a set called %q lives, and does not say which "+
			"disk it has; stop it first", d.Path(), exit.ErrRefused, sb.Name)
	}
	if err != nil || r.UUID != sb.UUID.String() || !control.Owned(sb.Name) && !present(r) {
		return nil
	}
	return fmt.Errorf("%s: %w: its set %q is that of %s over %s; if this is the same disk by "+
		"another way, data would be lost; first: %s",
		d.Path(), exit.ErrRefused, sb.Name, r.Device, r.Backing, shell.Command("stop", r.Name))
}

// running lists the records whose device the kernel has, or that a server owns.
func (a *app) running() ([]*control.Record, error) {
	all, err := control.Records()
	if errors.Is(err, control.ErrRefused) {
		return nil, err
	}
	if errors.Is(err, fs.ErrPermission) && len(all) == 0 {
		return nil, fmt.Errorf("cannot look into %s: %w", control.Dir(), fs.ErrPermission)
	}
	if err != nil {
		a.log.Warn().Err(err).Msg("some runtime records are of no use")
	}
	var list []*control.Record
	for _, r := range all {
		if control.Owned(r.Name) || present(r) {
			list = append(list, r)
		}
	}
	return list, nil
}
