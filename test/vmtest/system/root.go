package system

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ublkremap/test/vmtest/kernel"
)

// Root is a root file system of one suite for one kernel.
type Root struct {
	Suite string
	// Image is the path of an ext4 image. It is never written to.
	Image string
}

// Suites are the releases of Debian that there are roots of, oldest first.
var Suites = []string{"bookworm", "trixie"}

// ErrNoMmdebstrap is returned where a root would have to be made and cannot be.
var ErrNoMmdebstrap = errors.New("mmdebstrap is not installed; do it with: scripts/deps")

// packages are what a root has besides the packages that Debian calls essential:
// an init, and what the package under test recommends or a scenario uses.
const packages = "systemd-sysv,udev,kmod,e2fsprogs,dbus,mount,util-linux,procps,fdisk"

// imageMiB is the size of a root, most of it a hole.
const imageMiB = 900

//go:embed agent
var agent []byte

//go:embed agent.service
var agentUnit []byte

// GetRoot returns the root of a suite for a kernel, from the cache if it is there. Packages in
// extra are in it besides those that every root has. To make it takes a minute or two, and the
// network.
func GetRoot(cache, suite string, extra []string, k *kernel.Kernel,
	logf func(string, ...any)) (*Root, error) {
	packages := strings.Join(append([]string{packages}, extra...), ",")
	mirror := os.Getenv(kernel.MirrorEnv)
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	made := sum([]byte(suite), []byte(packages), []byte(mirror))
	dir := filepath.Join(cache, "roots", suite+"-"+made)
	// The kernel's directory is named by its release and what it was built of.
	name := filepath.Base(filepath.Dir(k.Image)) + "-" + sum(agent, agentUnit, []byte(prepare))
	root := &Root{Suite: suite, Image: filepath.Join(dir, name+".ext4")}
	if exists(root.Image) {
		return root, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := kernel.Lock(dir, "lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if exists(root.Image) {
		return root, nil
	}
	tar := filepath.Join(dir, "root.tar")
	if err := bootstrap(tar, suite, packages, mirror, logf); err != nil {
		return nil, fmt.Errorf("make a root of %s: %w", suite, err)
	}
	if err := makeImage(root.Image, tar, k); err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", suite, err)
	}
	return root, nil
}

// bootstrap makes the archive that a suite's images are made of.
func bootstrap(tar, suite, packages, mirror string, logf func(string, ...any)) error {
	if exists(tar) {
		return nil
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return ErrNoMmdebstrap
	}
	logf("mmdebstrap makes a root of %s; that takes a minute or two", suite)
	part := tar + ".part"
	defer func() { _ = os.Remove(part) }()
	args := []string{"--quiet", "--variant=minbase", "--format=tar", "--include=" + packages,
		// Nothing of it is read here, and the images get small.
		`--dpkgopt=path-exclude=/usr/share/doc/*`,
		`--dpkgopt=path-exclude=/usr/share/locale/*`,
		`--dpkgopt=path-exclude=/usr/share/man/*`,
		suite, part, mirror}
	if os.Getenv(kernel.MirrorEnv) != "" {
		args = append(args, "--aptopt=Acquire::Check-Valid-Until false")
	}
	if err := run("mmdebstrap", args...); err != nil {
		return err
	}
	return os.Rename(part, tar)
}

// prepare unpacks an archive into a directory, adds what a host needs, and
// makes an image of it: TAR AGENT UNIT MODULES RELEASE IMAGE SIZE.
const prepare = `set -e
root=$(mktemp -d "$6.XXXXXX")
trap 'rm -rf "$root"' EXIT
tar -xf "$1" -C "$root" --exclude=./dev/*
install -m 755 "$2" "$root/usr/local/sbin/agent"
install -m 644 "$3" "$root/etc/systemd/system/agent.service"
mkdir -p "$root/etc/systemd/system/sysinit.target.wants" "$root/var/log/journal"
ln -s ../agent.service "$root/etc/systemd/system/sysinit.target.wants/"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service fstrim.timer getty.target systemd-firstboot.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
echo host >"$root/etc/hostname"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
printf '%s\n' '/dev/ubda / ext4 defaults 0 0' >"$root/etc/fstab"
mkdir -p "$root/usr/lib/modules"
cp -a "$4" "$root/usr/lib/modules/$5"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
mkfs.ext4 -q -F -d "$root" -L root "$6" "$7"
`

func makeImage(image, tar string, k *kernel.Kernel) error {
	files, err := os.MkdirTemp(filepath.Dir(image), "files-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(files) }()
	program, unit := filepath.Join(files, "agent"), filepath.Join(files, "agent.service")
	if err := errors.Join(os.WriteFile(program, agent, 0o755),
		os.WriteFile(unit, agentUnit, 0o644)); err != nil {
		return err
	}
	part := image + ".part"
	defer func() { _ = os.Remove(part) }()
	shell := []string{"sh", "-c", prepare, "prepare", tar, program, unit, k.ModuleDir, k.Release,
		part, fmt.Sprintf("%dM", imageMiB)}
	if os.Geteuid() != 0 {
		// Owners are kept in a namespace of users, as mmdebstrap does it itself.
		shell = append([]string{"mmdebstrap", "--unshare-helper"}, shell...)
	}
	if err := run(shell[0], shell[1:]...); err != nil {
		return err
	}
	return os.Rename(part, image)
}

// run runs a program; its error carries what it printed.
func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("%s: %w: %s", name, err, text[max(0, len(text)-2000):])
	}
	return nil
}

func sum(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:4])
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
