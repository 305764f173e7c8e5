package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/mountinfo"
	"ublkremap/ublk"
)

// right is a capability that a server uses (capabilities(7)). Without the first there is
// no server. Without one of the others a server goes on, and the text says what it lacks.
type right struct {
	name    string
	bit     uint
	state   State
	without string
}

var rights = []right{
	{"SYS_ADMIN", unix.CAP_SYS_ADMIN, Failure, "no devices, no mount namespace of its own"},
	{"SYS_RESOURCE", unix.CAP_SYS_RESOURCE, Warning,
		"a server can wait for itself when memory is short, be killed then, or be swapped out"},
}

// effective returns the set of the capabilities that this process has.
func effective() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), err
}

// capabilities checks the capabilities of this root process. Only a container, or a unit, removes
// some.
func (r *Report) capabilities() {
	have, err := effective()
	if err != nil {
		r.add("rights", Warning, "", "cannot tell the capabilities: %v", err)
		return
	}
	for _, c := range rights {
		if have&(1<<c.bit) == 0 {
			r.add("rights", c.state, "in a container: --cap-add "+c.name, "without CAP_%s: %s",
				c.name, c.without)
		}
	}
}

// inContainer reports whether this process is in a container. docker and podman leave a file there.
// Others set a variable of process 1, which most processes there have too.
func inContainer() bool {
	for _, path := range []string{"/run/.containerenv", "/.dockerenv"} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return os.Getenv("container") != ""
}

// container checks, in a container, whether everything of the host that a server needs is there.
func (r *Report) container() {
	if !inContainer() {
		return
	}
	mounts, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		r.add("container", Warning, "", "cannot tell what is mounted: %v", err)
		return
	}
	// Of several mounts at one place the last one counts.
	types := map[string]string{}
	for _, m := range mounts {
		types[filepath.Clean(m.Point)] = m.Type
	}
	if types["/dev"] == "devtmpfs" {
		r.add("container /dev", OK, "", "the host's: devices appear in it")
	} else {
		r.add("container /dev", Failure, "-v /dev:/dev",
			"not the host's: a device that is made does not appear in it")
	}
	if _, shared := types[control.Dir()]; shared {
		r.add("container records", OK, "", "%s is the host's", control.Dir())
	} else {
		r.add("container records", Warning, "-v "+control.Dir()+":"+control.Dir(),
			"%s is the container's own: the host and other containers do not see its servers, and "+
				"a record is gone with the container", control.Dir())
	}
	if host.PIDNamespace() == initPIDs {
		r.add("container processes", OK, "", "the host's")
	} else {
		r.add("container processes", Warning, "--pid host", "its own: the host is told another "+
			"number of the server's process, and who uses a device is not seen from here")
	}
}

// initPIDs is the inode of the first namespace of process numbers
// (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const initPIDs = 0xEFFFFFFC

// absent says why there is no control device although the kernel has loaded the driver: the device
// is in the kernel's list of such devices, which each container sees.
func (r *Report) absent() bool {
	text, err := os.ReadFile("/proc/misc")
	if err != nil || !strings.Contains(string(text), filepath.Base(ublk.ControlPath)) {
		return false
	}
	r.add("ublk driver", Failure, "in a container: -v /dev:/dev; elsewhere check that /dev is a "+
		"devtmpfs", "loaded, but %s is missing", ublk.ControlPath)
	return true
}

// denied says what it means if root may not open the control device.
func denied(err error) string {
	switch {
	case !errors.Is(err, fs.ErrPermission):
		return "see dmesg; reload the module: modprobe -r ublk_drv; modprobe ublk_drv"
	case os.Geteuid() != 0:
		return "run it as root"
	}
	return "in a container: --device-cgroup-rule 'c *:* rw' --device-cgroup-rule 'b *:* rw'"
}
