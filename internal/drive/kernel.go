package drive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ublkremap/internal/sysfs"
)

// patience is how many seconds the kernel waits for a drive if it is not known when the drive gives
// up. The value is that of mdadm's udev rule: drives try for up to two minutes.
const patience = 180

// setting is an attribute of sysfs that was changed.
type setting struct {
	Path   string `json:"path"` // below /sys
	Before string `json:"before"`
	Set    string `json:"set"`
}

// timers returns the attributes that limit how long the kernel waits for a disk: the time for one
// command, and the time that error handling may take before it resets the whole controller, which
// is off by default. Documentation/scsi/scsi_eh.rst of the kernel describes them.
func (d disk) timers(sys string) []string {
	rel, err := filepath.Rel(sys, d.dir)
	if err != nil {
		return nil
	}
	all := []string{filepath.Join(rel, "device/timeout")}
	device, err := filepath.EvalSymlinks(filepath.Join(d.dir, "device"))
	if err != nil {
		return all
	}
	for part := range strings.SplitSeq(device, "/") {
		if n, ok := strings.CutPrefix(part, "host"); ok && isNumber(n) {
			all = append(all, filepath.Join("class/scsi_host", part, "eh_deadline"))
		}
	}
	return all
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// timeout is how long the kernel waits for one command of a disk, in seconds; 0: not known.
func (h *Host) timeout(d disk) int {
	return int(sysfs.Int(d.dir, "device/timeout"))
}

// raises returns the settings that give a disk enough time. Limits that are longer already, or off,
// stay.
func (h *Host) raises(d disk) []setting {
	var all []setting
	for _, path := range d.timers(h.sys) {
		text, err := sysfs.Text(h.sys, path)
		if n, numErr := strconv.Atoi(text); err == nil && numErr == nil && n < patience {
			all = append(all, setting{Path: path, Before: text, Set: strconv.Itoa(patience)})
		}
	}
	return all
}

// apply writes settings.
func (h *Host) apply(all []setting) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, h.write(s.Path, s.Set))
	}
	return errors.Join(errs...)
}

// undo restores the old values of settings that still have the value that was set.
func (h *Host) undo(all []setting) error {
	var errs []error
	for _, s := range all {
		if now, err := sysfs.Text(h.sys, s.Path); err == nil && now == s.Set {
			errs = append(errs, h.write(s.Path, s.Before))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) write(path, value string) error {
	// The file is not created if it is gone, as it is when its disk is gone.
	f, err := os.OpenFile(filepath.Join(h.sys, path), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(value + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot set the kernel's timer to %s s: %w", value, err)
	}
	return nil
}
