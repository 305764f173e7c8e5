package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
)

// Host is this machine as its caller sees it. The zero value can be used.
type Host struct {
	// BadRecords is called with runtime records that cannot be read and are left out. It may be
	// nil.
	BadRecords func(error)
	// Waiting is called from time to time with what is waited for about a device. It may be nil.
	Waiting func(device, what string)
}

// records reads all runtime records. Those that cannot be read are left out. hidden says that this
// user is not allowed to read some of them. The error is control.ErrRefused if the directory cannot
// be trusted.
func (h *Host) records() (all []*control.Record, hidden bool, err error) {
	all, err = control.Records()
	if errors.Is(err, control.ErrRefused) {
		return nil, false, err
	}
	hidden = errors.Is(err, fs.ErrPermission)
	if err != nil && (!hidden || len(all) > 0) && h.BadRecords != nil {
		h.BadRecords(err)
	}
	return all, hidden, nil
}

// Lookup finds the record of a device by one of the names that people use: /dev/ublkbN, ublkbN, N,
// the name, the UUID or the backing. The error is ErrNotFound if there is none, and
// fs.ErrPermission if this user is not allowed to find out.
func (h *Host) Lookup(what string) (*control.Record, error) {
	records, hidden, err := h.records()
	if err != nil {
		return nil, err
	}
	number := strings.TrimPrefix(strings.TrimPrefix(what, "/dev/"), "ublkb")
	id, idErr := strconv.ParseUint(number, 10, 31)
	// A name may look like a number. The name wins.
	for _, match := range []func(r *control.Record) bool{
		func(r *control.Record) bool { return r.Name == what || r.UUID == what },
		func(r *control.Record) bool { return idErr == nil && r.ID == int(id) },
		func(r *control.Record) bool {
			return r.Backing == what || blockdev.SameDisk(r.Backing, what)
		},
	} {
		for _, r := range records {
			if match(r) {
				return r, nil
			}
		}
	}
	if hidden || os.Geteuid() != 0 && len(records) == 0 {
		return nil, fmt.Errorf("%s: cannot look into %s: %w", what, control.Dir(),
			fs.ErrPermission)
	}
	if what == "" {
		what = `""`
	}
	return nil, fmt.Errorf("%s: %w: no device of this name, number or path runs here; see: "+
		"ublk-remap list", what, ErrNotFound)
}

// Running lists the records whose device the kernel has, or whose name a server has.
func (h *Host) Running() ([]*control.Record, error) {
	all, hidden, err := h.records()
	if err != nil {
		return nil, err
	}
	if hidden && len(all) == 0 {
		return nil, fmt.Errorf("cannot look into %s: %w", control.Dir(), fs.ErrPermission)
	}
	var list []*control.Record
	for _, r := range all {
		if control.Owned(r.Name) || Present(r) {
			list = append(list, r)
		}
	}
	return list, nil
}

// Present reports whether the kernel still has the device of a record.
func Present(r *control.Record) bool {
	_, err := os.Stat(filepath.Join("/sys/class/ublk-char", fmt.Sprintf("ublkc%d", r.ID)))
	return err == nil
}

// deviceOver returns the record of the kernel's device over a backing, or nil if there is none.
// Records that cannot be read are left out.
func deviceOver(backing string) *control.Record {
	records, _ := control.Records()
	for _, r := range records {
		if (r.Backing == backing || blockdev.SameDisk(r.Backing, backing)) && Present(r) {
			return r
		}
	}
	return nil
}
