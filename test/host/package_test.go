package host

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ublkremap/test/vmtest/system"
)

// packages are those that were built, by version.
var packages = map[string]string{}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, deb := range packages {
		_ = os.RemoveAll(filepath.Dir(deb))
	}
	os.Exit(code)
}

// needHosts skips a test that was not asked for.
func needHosts(t *testing.T) {
	t.Helper()
	if os.Getenv(system.Env) == "" {
		t.Skip("builds packages; run it by: make test-host")
	}
}

// build has scripts/package of a checkout build packages.
func build(t *testing.T, checkout, to string, env ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(checkout, "scripts/package"), to)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scripts/package: %v\n%s", err, out)
	}
}

// deb returns the Debian package of a version.
func deb(t *testing.T, version string) string {
	t.Helper()
	if path, ok := packages[version]; ok {
		return path
	}
	dir, err := os.MkdirTemp("", "ublk-remap-packages-")
	if err != nil {
		t.Fatal(err)
	}
	build(t, "../..", dir, "VERSION="+version, "ARCHES=amd64", "FORMATS=deb")
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	packages[version] = found[0]
	return found[0]
}

// The same commit gives the same packages, in another checkout at another time.
func TestReproducible(t *testing.T) {
	needHosts(t)
	if testing.Short() {
		t.Skip("left out by -short")
	}
	other := filepath.Join(t.TempDir(), "another-place")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	copied := exec.Command("sh", "-c", `
		git -c safe.directory='*' ls-files -z -co --exclude-standard |
		xargs -0 -r tar -cf - --ignore-failed-read | tar -xmf - -C "$1"`, "sh", other)
	copied.Dir = "../.."
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env := []string{"VERSION=v0.0.1", "SOURCE_DATE_EPOCH=1790000000"}
	a, b := t.TempDir(), t.TempDir()
	build(t, "../..", a, env...)
	build(t, other, b, append(env, "TMPDIR="+t.TempDir())...)
	files, err := filepath.Glob(filepath.Join(a, "*"))
	if err != nil || len(files) != 5 {
		t.Fatalf("two architectures, deb and rpm, and SHA256SUMS: %q, %v", files, err)
	}
	for _, f := range files {
		one, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(b, filepath.Base(f)))
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: not the same (%v)", filepath.Base(f), err)
		}
	}
	sums := exec.Command("sha256sum", "-c", "SHA256SUMS")
	sums.Dir = a
	if out, err := sums.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// lintian finds nothing that packaging/lintian-overrides does not explain.
func TestLintian(t *testing.T) {
	needHosts(t)
	if testing.Short() {
		t.Skip("left out by -short")
	}
	if _, err := exec.LookPath("lintian"); err != nil {
		t.Skip("lintian is not installed")
	}
	cmd := exec.Command("lintian", "--fail-on", "error,warning,info", "--allow-root",
		deb(t, "v0.0.1"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// installed makes a host with the package installed and a set called data on its first disk,
// enabled and live. A file system on it, with a file in it, is mounted on /data, at each boot.
func installed(t *testing.T, h *system.Host, fstab string) {
	t.Helper()
	h.Boot()
	h.Run("dpkg -i /payload/ublk-remap.deb")
	out, code := h.Try(`set -e
ublk-remap create --name data /dev/ubdc
systemctl enable --now ublk-remap@data
mkfs.ext4 -q -L label -U 11111111-2222-3333-4444-555555555555 /dev/disk/by-id/ublk-remap-data
udevadm trigger --settle /dev/ublkb0
mkdir /data`)
	if code != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, out, h.Run(`ls -l /dev/disk/*
journalctl -u ublk-remap@data -u systemd-udevd --no-pager | tail -50
udevadm info /dev/ublkb0; udevadm test /sys/block/ublkb0 2>&1 | tail -40
cat /run/ublk-remap/*.json`))
	}
	h.Run(fmt.Sprintf("echo '%s /data ext4 defaults 0 2' >>/etc/fstab\n", fstab) + `
systemctl daemon-reload
mount /data
echo first >/data/first`)
}

func withPackage(t *testing.T) system.Options {
	needHosts(t)
	return system.Options{Disks: []int64{128 << 20},
		Payload: map[string]string{"ublk-remap.deb": deb(t, "v0.0.1")}}
}
