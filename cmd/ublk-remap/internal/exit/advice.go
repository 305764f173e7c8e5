package exit

import (
	"errors"
	"io/fs"
	"strings"

	"ublkremap/cmd/ublk-remap/internal/server"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

var advice = []struct {
	err error
	do  string
}{
	{metadata.ErrDamaged, "leave the disk as it is and look with: ublk-remap metadata check"},
	{metadata.ErrStale, "attach the device that was in use last, or see: ublk-remap metadata dump"},
	{metadata.ErrForeign, "name the devices that belong together"},
	{metadata.ErrUnsupported, "use a newer ublk-remap"},
	{metadata.ErrNotFound, "name the right disk, or prepare it with: ublk-remap create"},
	{ublk.ErrNoDriver, "load it with: modprobe ublk_drv; if there is no such module the kernel is too old or built without it, see: ublk-remap doctor"},
	{ublk.ErrNotSupported, "use a newer kernel or do without, see: ublk-remap doctor"},
	{server.ErrServed, "see: ublk-remap status"},
	{ublk.ErrExists, "choose another --id, or none"},
	{blockdev.ErrBusy, "unmount it or stop what uses it"},
	{blockdev.ErrReadOnly, "check the device's write protection"},
	{blockdev.ErrNoDirectIO, "put the file on ext4 or xfs, or use a block device"},
	{control.ErrNotRunning, "start it with: ublk-remap start"},
	{fs.ErrPermission, "run it as root"},
}

// Line is an error as the command prints it: one line, with what to do about
// it where that is known.
func Line(err error) string {
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	var detached *Error
	if errors.As(err, &detached) {
		return text // it has been through here
	}
	for _, a := range advice {
		if errors.Is(err, a.err) {
			if strings.Contains(text, a.do) {
				return text
			}
			return text + "; " + a.do
		}
	}
	return text
}
