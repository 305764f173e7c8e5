package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// GuestEnv names the environment variable that is set, to the kernel that was
// asked for, in every guest of cmd/vmexec.
const GuestEnv = "UBLK_REMAP_GUEST"

// InGuest says whether this process runs in a guest of cmd/vmexec.
func InGuest() bool { return os.Getenv(GuestEnv) != "" }

// umlName is what user-mode Linux is called, as a kernel and in its release.
const umlName = "uml"

// UserMode says whether the kernel is user-mode Linux (make uml): Debian's newest
// source with one CPU, whatever is asked for, and no SysRq.
func UserMode() bool { return strings.HasSuffix(KernelRelease(), "-"+umlName) }

// Version is the first two numbers of a kernel release.
type Version struct{ Major, Minor int }

// V returns the version major.minor.
func V(major, minor int) Version { return Version{major, minor} }

// Less says whether v is older than o.
func (v Version) Less(o Version) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// KernelVersion is the running kernel's version.
func KernelVersion() Version {
	v, err := parseRelease(KernelRelease())
	if err != nil {
		panic(err) // every Linux release begins with two numbers
	}
	return v
}

// KernelRelease is the running kernel's release, as uname -r prints it.
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		panic(err) // uname(2) fails for a bad pointer only
	}
	return unix.ByteSliceToString(u.Release[:])
}

func parseRelease(release string) (Version, error) {
	var v Version
	if _, err := fmt.Sscanf(release, "%d.%d", &v.Major, &v.Minor); err != nil {
		return Version{}, fmt.Errorf("kernel release %q: %w", release, err)
	}
	return v, nil
}

// Feature is something that a test needs of the kernel.
type Feature struct {
	// Name is for people: "zero copy".
	Name string
	// Min is the first version that has it.
	Min Version
	// Has asks the kernel. Nil: the version decides.
	Has func() (bool, error)
}

// Require skips the test on a kernel that is too old for the feature. On a kernel that is new
// enough and lacks it anyway the test fails, so that a broken probe does not turn tests off
// unnoticed. A kernel older than Min that has the feature (a backport) is fine.
func Require(t testing.TB, f Feature) {
	t.Helper()
	outcome, msg := f.judge(KernelVersion())
	switch outcome {
	case skip:
		t.Skip(msg)
	case fail:
		t.Fatal(msg)
	}
}

type verdict int

const (
	run verdict = iota
	skip
	fail
)

func (f Feature) judge(running Version) (verdict, string) {
	old := running.Less(f.Min)
	has := !old
	if f.Has != nil {
		var err error
		if has, err = f.Has(); err != nil {
			return fail, fmt.Sprintf("cannot tell whether the kernel has %s: %v", f.Name, err)
		}
	}
	switch {
	case has:
		return run, ""
	case old:
		return skip, fmt.Sprintf("%s needs Linux %s, this is %s", f.Name, f.Min, running)
	default:
		return fail, fmt.Sprintf("Linux %s should have %s (it came with %s) and does not", running,
			f.Name, f.Min)
	}
}

// lacking ends the test because the machine lacks something: as a failure in
// a guest, where the harness provides everything, else as a skip.
func lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	msg := fmt.Sprintf(format, args...)
	if InGuest() {
		t.Fatal(msg)
	}
	t.Skip(msg + "; make test-vm runs this test in a guest")
}

// NeedRoot skips the test for other users.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacking(t, "needs root")
	}
}

// NeedUblk skips the test where there is no ublk driver or no right to use it.
func NeedUblk(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	const ctl = "/dev/ublk-control"
	if _, err := os.Stat(ctl); err != nil {
		_ = modprobe("ublk_drv")
	}
	f, err := os.OpenFile(ctl, os.O_RDWR, 0)
	if err != nil {
		lacking(t, "no ublk here (%v)", err)
	}
	_ = f.Close()
}

// NeedTools skips the test where a program is not in PATH.
func NeedTools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			lacking(t, "needs the program %s", n)
		}
	}
}

// Modprobe loads a module with parameters such as "nr_devices=0". One that is
// loaded already stays as it is.
func Modprobe(t testing.TB, name string, params ...string) {
	t.Helper()
	NeedRoot(t)
	if err := modprobe(name, params...); err != nil {
		lacking(t, "%v", err)
	}
}

func modprobe(name string, params ...string) error {
	out, err := exec.Command("modprobe", append([]string{name}, params...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Run runs a program and returns its standard output without the final
// newline; anything but exit code 0 fails the test with what it printed.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.String(),
			stderr.String())
	}
	return strings.TrimRight(stdout.String(), "\n")
}

// FullEnv names the environment variable that asks for the whole cross of
// features (make test-vm-full) instead of the pairwise choice.
const FullEnv = "UBLK_REMAP_FULL"

// Full says whether the whole cross was asked for.
func Full() bool { return os.Getenv(FullEnv) != "" }

// BinaryEnv names the environment variable with the path of the program under
// test, where it is neither in a guest nor at bin/ublk-remap in the tree.
const BinaryEnv = "UBLK_REMAP_BINARY"

// Binary returns the path of the program ublk-remap: in a guest the one that
// the harness packed, else $UBLK_REMAP_BINARY, else bin/ublk-remap of the
// tree, which make build makes.
func Binary(t testing.TB) string {
	t.Helper()
	if p := os.Getenv(BinaryEnv); p != "" {
		return p
	}
	if InGuest() {
		p, err := exec.LookPath("ublk-remap")
		if err != nil {
			t.Fatal("the guest has no ublk-remap: pass vmexec -file " +
				"bin/ublk-remap:/usr/local/bin/ublk-remap, as make test-vm does")
		}
		return p
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			p := filepath.Join(dir, "bin/ublk-remap")
			if _, err := os.Stat(p); err != nil {
				t.Skip("no bin/ublk-remap: run make build first")
			}
			return p
		}
	}
	t.Fatal("not inside the module's tree")
	return ""
}
