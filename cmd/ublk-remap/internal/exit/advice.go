package exit

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// elsewhere replaces do if the verb that do names prints the error.
var advice = []struct {
	err       error
	do        string
	elsewhere string
}{
	{metadata.ErrPath, "try again", ""},
	{metadata.ErrDamaged, "leave the disk as it is and look with: ublk-remap metadata check",
		"leave the disk as it is; what can be mended is said by: ublk-remap metadata repair " +
			"--dry-run"},
	{metadata.ErrBackup, "use another backup", ""},
	{metadata.ErrBackupStale, "nothing needs to be restored; see: ublk-remap metadata check",
		"nothing needs to be restored"},
	{metadata.ErrBadPlaces, "use another disk: this one cannot keep records of what is bad", ""},
	{metadata.ErrStale, "attach the device that was in use last, or see: ublk-remap metadata dump",
		"attach the device that was in use last"},
	{metadata.ErrForeign, "name the devices that belong together", ""},
	{metadata.ErrUnsupported, "use a newer ublk-remap", ""},
	{metadata.ErrNotFound, "name the right disk, or prepare it with: ublk-remap create; if it " +
		"was prepared once, do not, and see: ublk-remap metadata repair",
		"if it was prepared once, restore a backup with: ublk-remap metadata restore"},
	{ublk.ErrNoDriver, "load it with: modprobe ublk_drv; if there is no such module the kernel " +
		"is too old or built without it, see: ublk-remap doctor",
		"load it with: modprobe ublk_drv"},
	{ublk.ErrNotSupported, "use a newer kernel or do without, see: ublk-remap doctor",
		"use a newer kernel or do without"},
	{host.ErrServed, "see: ublk-remap status", ""},
	{ublk.ErrExists, "choose another --id, or none", ""},
	{blockdev.ErrBusy, "unmount it or stop what uses it", ""},
	{blockdev.ErrReadOnly, "check the device's write protection", ""},
	{blockdev.ErrNoDirectIO, "put the file on ext4 or xfs, or use a block device", ""},
	{control.ErrNotRunning, "start it with: ublk-remap start", "try again"},
	{control.ErrBusy, "try again", ""},
	{blockdev.ErrAlignment, "give it blocks of 512 to 4096 bytes, and not larger ones than the " +
		"set was made with", ""},
	{blockdev.ErrNotDevice, "name a disk, such as /dev/sdb, or a file", ""},
}

// Line is an error in the form that the command prints: one line, which also says what to do if
// that is known. The line is printable, whatever path or name the error quotes, and not longer than
// maxLine.
func Line(err error) string { return LineOf("", err) }

// LineOf is Line for a verb, such as "metadata check". The advice does not name the verb itself.
func LineOf(verb string, err error) string {
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool {
		return r == '\n' || r == '\r'
	}), "; ")
	text = strings.ReplaceAll(text, "\t", " ") // of another program's output
	text = shorten(readable.Text(text))
	var detached *Error
	if errors.As(err, &detached) {
		return text // the text is a line from here already
	}
	var advised interface{ Advised() bool }
	if errors.As(err, &advised) && advised.Advised() {
		return text // it says what to do
	}
	for _, a := range advice {
		if errors.Is(err, a.err) {
			do := a.do
			if verb != "" && strings.Contains(do, "ublk-remap "+verb) {
				do = a.elsewhere
			}
			if do == "" || strings.Contains(text, do) {
				return text
			}
			return text + "; " + do
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		if os.Geteuid() != 0 {
			return text + "; run it as root"
		}
		return text + "; not even root may: look for an immutable flag (lsattr), a container or " +
			"a security module"
	}
	return text
}

// maxLine limits how much of an error's text is shown, in bytes. The middle of a longer text is
// left out, because the start says what failed and where, and the end says what to do.
const maxLine = 4096

func shorten(s string) string {
	if len(s) <= maxLine {
		return s
	}
	return strings.ToValidUTF8(s[:maxLine/2], "") + " … " +
		strings.ToValidUTF8(s[len(s)-maxLine/2:], "")
}
