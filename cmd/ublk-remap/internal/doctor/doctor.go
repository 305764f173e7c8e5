// Package doctor examines a machine: whether it can serve devices, what its kernel can do, whether
// anything is left over, and what to do about each. Only [Fix] changes anything.
package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/ublk"
)

// State is the result of a check.
type State string

const (
	OK      State = "ok"
	Warning State = "warning" // devices can be served, but
	Failure State = "failure" // devices cannot be served
)

// Check is one check with its result.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	What  string `json:"what"`
	Do    string `json:"do"` // what to do about it; empty if nothing
}

// Feature is one ability of the kernel's driver.
type Feature struct {
	Name    string `json:"name"`
	Since   string `json:"since"` // first Linux that has it
	Purpose string `json:"purpose"`
	Present bool   `json:"present"`
}

// Report is the result of all checks.
type Report struct {
	Kernel   string    `json:"kernel"`
	Checks   []Check   `json:"checks"`
	Features []Feature `json:"features"` // empty if the kernel could not be asked
	// Fixed lists what Fix did before, one line each.
	Fixed []string `json:"fixed,omitempty"`
}

// OK reports whether devices can be served here.
func (r *Report) OK() bool {
	for _, c := range r.Checks {
		if c.State == Failure {
			return false
		}
	}
	return true
}

func (r *Report) add(name string, state State, do, format string, args ...any) {
	r.Checks = append(r.Checks, Check{Name: name, State: state, What: fmt.Sprintf(format, args...),
		Do: do})
}

// minimum is the first Linux whose driver can be asked for its features.
var minimum = ublk.KernelVersion{Major: 6, Minor: 5}

// Examine examines this machine.
func Examine(ctx context.Context) *Report {
	r := &Report{Kernel: release(), Features: []Feature{}}
	r.kernel()
	r.process()
	r.container()
	driver := r.driver()
	r.ring()
	if driver {
		r.ask(ctx)
	}
	return r
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func (r *Report) kernel() {
	v, err := ublk.ParseKernelVersion(r.Kernel)
	if err != nil {
		r.add("kernel", Warning, "", "cannot tell the version of %q: %v", r.Kernel, err)
		return
	}
	if !v.AtLeast(minimum) {
		r.add("kernel", Failure, "use Linux 6.12 or later, such as Debian 13's",
			"Linux %s: ublk-remap needs %s or later", r.Kernel, minimum)
		return
	}
	r.add("kernel", OK, "", "Linux %s", r.Kernel)
	for _, bad := range ublk.KnownBadKernel(v) {
		r.add("known problem", Warning, bad.Advice, "Linux %s to %s: %s", bad.First, bad.Last,
			bad.Problem)
	}
}

func (r *Report) process() {
	if os.Geteuid() != 0 {
		r.add("rights", Failure, "run it as root", "this is user %d", os.Geteuid())
	} else {
		r.add("rights", OK, "", "root")
		r.capabilities()
	}
	if strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff=1") {
		r.add("GODEBUG", Failure, "take asyncpreemptoff=1 out of GODEBUG",
			"with asyncpreemptoff=1 a queue thread could stop the whole server")
	}
	var limit unix.Rlimit
	switch err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); {
	case err != nil:
		r.add("locked memory", Warning, "", "cannot tell the limit: %v", err)
	case limit.Cur == unix.RLIM_INFINITY || os.Geteuid() == 0:
		r.add("locked memory", OK, "", "not limited")
	default:
		r.add("locked memory", Warning, "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
			"at most %s", readable.Bytes(int64(min(limit.Cur, math.MaxInt64))))
	}
}

// driver checks the module and the control device.
func (r *Report) driver() bool {
	st, err := os.Stat(ublk.ControlPath)
	if err == nil {
		switch uid, mode := owner(st), st.Mode(); {
		case mode&fs.ModeCharDevice == 0:
			r.add("ublk driver", Failure, "remove it and load the module again: modprobe -r "+
				"ublk_drv; modprobe ublk_drv", "%s is not a device", ublk.ControlPath)
			return false
		case uid != 0 || mode.Perm()&0o022 != 0:
			r.add("ublk driver", Warning, "chown root "+ublk.ControlPath+"; chmod 600 "+
				ublk.ControlPath,
				"%s is user %d's, mode %o: others can make devices", ublk.ControlPath, uid,
				mode.Perm())
		default:
			r.add("ublk driver", OK, "", "loaded")
		}
		return true
	}
	if !errors.Is(err, fs.ErrNotExist) {
		r.add("ublk driver", Failure, "", "%v", err)
		return false
	}
	if r.absent() {
		return false
	}
	switch built, module := findModule(r.Kernel); {
	case built:
		r.add("ublk driver", Failure, "check that /dev is a devtmpfs",
			"it is built into the kernel, but %s is missing", ublk.ControlPath)
	case module != "":
		r.add("ublk driver", Warning, "start loads it; at boot: echo ublk_drv "+
			">/etc/modules-load.d/ublk.conf", "not loaded; the module is %s", module)
	default:
		r.add("ublk driver", Failure, "use a kernel with CONFIG_BLK_DEV_UBLK, such as Debian "+
			"13's (6.12) or that of trixie-backports",
			"this kernel has no ublk_drv")
	}
	return false
}

func owner(st fs.FileInfo) int {
	var s unix.Stat_t
	if err := unix.Stat(ublk.ControlPath, &s); err != nil {
		return -1
	}
	return int(s.Uid)
}

// findModule looks for ublk_drv in the lists that depmod and the kernel's
// build leave in /lib/modules.
func findModule(release string) (built bool, module string) {
	dir := filepath.Join("/lib/modules", release)
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		f, err := os.Open(filepath.Join(dir, list))
		if err != nil {
			continue
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			path, _, _ := strings.Cut(sc.Text(), ":")
			if strings.HasPrefix(filepath.Base(path), "ublk_drv.ko") {
				built = built || list == "modules.builtin"
				module = filepath.Join(dir, path)
			}
		}
		f.Close()
		if module != "" {
			break
		}
	}
	return built, module
}

// ring checks that io_uring is not forbidden: to everybody
// (Documentation/admin-guide/sysctl/kernel.rst), or to this process, by a filter of system calls.
func (r *Report) ring() {
	b, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	if err == nil && strings.TrimSpace(string(b)) == "2" {
		r.add("io_uring", Failure, "sysctl kernel.io_uring_disabled=0", "forbidden to everybody")
		return
	}
	// A ring cannot have 0 entries. A kernel that has io_uring, and lets this process use it,
	// returns that error.
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 0, 0, 0)
	switch errno {
	case unix.ENOSYS, unix.EPERM, unix.EACCES:
		r.add("io_uring", Failure, "in a container: --security-opt seccomp=unconfined, or a "+
			"profile with io_uring (docs/CONTAINERS.md)", "forbidden to this process: %v", errno)
	default:
		r.add("io_uring", OK, "", "allowed")
	}
}

// ask asks the driver.
func (r *Report) ask(ctx context.Context) {
	ctl, err := ublk.OpenControl()
	if err != nil {
		r.add("control device", Failure, denied(err), "%v", err)
		return
	}
	defer ctl.Close()
	have, err := ctl.Features(ctx)
	if err != nil {
		r.add("control device", Failure, "see dmesg; reload the module: modprobe -r ublk_drv; "+
			"modprobe ublk_drv", "it does not answer: %v", err)
		return
	}
	for _, f := range ublk.AllFeatures() {
		r.Features = append(r.Features, Feature{Name: f.Name, Since: f.Since.String(),
			Purpose: f.Purpose, Present: have.Has(f.Bit)})
	}
	if err := have.Require(ublk.FeatureRecovery | ublk.FeatureRecoveryReissue); err != nil {
		r.add("features", Failure, "use a newer kernel", "%v", err)
	} else if have.Has(ublk.FeatureAutoBufReg) {
		r.add("features", OK, "", "devices outlive their servers; zero copy")
	} else {
		r.add("features", OK, "", "devices outlive their servers; data is copied (zero copy "+
			"needs Linux 6.16)")
	}
	r.batchIO(have)
	r.devices(ctx, ctl)
}

// batchIO says what start --batch-io=on does on this kernel.
func (r *Report) batchIO(have ublk.Features) {
	v, err := ublk.RunningKernel()
	bad, known := ublk.KnownBadBatchIO(v)
	switch {
	case !have.Has(ublk.FeatureBatchIO):
		r.add("batch I/O", OK, "", "not there (needs Linux 7.0), and not needed")
	case err == nil && known:
		r.add("batch I/O", OK, "", "off unless a start asks for it: on Linux %s to %d.%d, %s",
			bad.First, bad.Last.Major, bad.Last.Minor, bad.Problem)
	default:
		r.add("batch I/O", OK, "", "there; off unless a start asks for it")
	}
}

// devices checks the devices: those whose server is dead, those without a record, and files in the
// runtime directory of devices that do not exist any more.
func (r *Report) devices(ctx context.Context, ctl *ublk.Control) {
	unrecorded, err := host.UnrecordedOf(ctx, ctl)
	if err != nil {
		r.add("devices", Warning, "", "cannot look for devices without a record: %v", err)
	}
	for _, u := range unrecorded {
		r.unrecorded(u)
	}
	devices, err := ctl.List(ctx)
	if err != nil {
		r.add("devices", Warning, "", "cannot list them: %v", err)
		return
	}
	records, err := control.Records()
	if err != nil {
		r.add("runtime records", Warning, "remove what is of no use from "+control.Dir(), "%v", err)
	}
	fine := 0
	for _, d := range devices {
		name := ""
		for _, rec := range records {
			if rec.ID == d.ID {
				name = rec.Name
			}
		}
		switch {
		case name == "" && host.Tagged(d.Tag):
		case name != "" && control.Owned(name), name == "" && d.State == ublk.StateLive &&
			alive(d.PID):
			fine++
		case name != "":
			r.add("device", Warning, "recover it: "+shell.Command("start", name)+
				"; or give it up: "+shell.Command("stop", name),
				"%s (%s) has no server; it is %s", d.BlockPath(), name, d.State)
		default:
			r.add("device", Warning, "it is another program's; if nothing of that starts it "+
				"again: ublk del -n "+fmt.Sprint(d.ID),
				"%s has no server and is not known here; it is %s", d.BlockPath(), d.State)
		}
	}
	r.add("devices", OK, "", "%d with a server", fine)
	for _, l := range leftFiles(ctx, ctl, records) {
		if l.harmless {
			continue
		}
		r.add("left over", Warning, fixAdvice, "%s: %s", l.path, l.why)
	}
}

// fixAdvice is for things that are safe to remove.
const fixAdvice = "remove it: ublk-remap doctor --fix"

func (r *Report) unrecorded(u *host.Unrecorded) {
	dev := u.BlockPath()
	switch {
	case u.ServerPID != 0:
		r.add("device", Warning, fmt.Sprintf("to stop it in order, when nothing uses it: kill "+
			"%d; then start it again", u.ServerPID),
			"%s is served by process %d, but its files are not in %s (it is in a container, or "+
				"they were removed)", dev, u.ServerPID, control.Dir())
	case u.Hidden():
		r.add("device", Warning, "stop it where it runs; if it was killed just now, wait until "+
			"its last I/O has ended",
			"%s is served by a server that cannot be seen from here, such as one in a container",
			dev)
	case !u.Waits():
		r.add("device", Warning, fixAdvice, "%s was added and never started, or stopped and not "+
			"removed", dev)
	case u.Backing != "":
		r.add("device", Warning, fmt.Sprintf("recover it: %s; or give it up: ublk-remap stop %d",
			shell.Command("start", u.Backing), u.ID),
			"%s (%s) has no server and no record; it is %s", dev, u.Name, u.State)
	default:
		r.add("device", Warning, fmt.Sprintf("attach its disk and recover it: ublk-remap start "+
			"BACKING; or give it up: ublk-remap stop %d", u.ID),
			"%s has no server and no record, and its disk is not to be found; it is %s", dev,
			u.State)
	}
}

func alive(pid int) bool { return pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
