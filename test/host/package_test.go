package host

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

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
	if err := script("../..", "scripts/package", dir, "VERSION="+version, "ARCHES=amd64",
		"FORMATS=deb"); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	packages[version] = found[0]
	return found[0]
}

// long skips a test that is not one of the few that make test runs.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out by -short")
	}
}

// prepared boots a host, installs the package there, and runs a script.
func prepared(h *system.Host, script string) {
	h.Boot()
	h.Run("dpkg -i /payload/ublk-remap.deb\n" + script)
}

// installed makes a host with the package installed and a set called data on its first disk,
// enabled and live. A file system on it, with a file in it, is mounted on /data, at each boot.
func installed(t *testing.T, h *system.Host, fstab string) {
	t.Helper()
	install(t, h, "dpkg -i /payload/ublk-remap.deb", fstab)
}

// install does so by a script that installs the package.
func install(t *testing.T, h *system.Host, script, fstab string) {
	t.Helper()
	h.Boot()
	h.Run(script)
	out, code := h.Try(`set -e
ublk-remap create --name data /dev/ubdc
systemctl enable --now ublk-remap@data
mkfs.ext4 -q -L label -U 11111111-2222-3333-4444-555555555555 /dev/disk/by-id/ublk-remap-data
mkdir /data`)
	if code != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, out, h.Run(`ls -l /dev/disk/*
journalctl -u ublk-remap@data -u systemd-udevd --no-pager | tail -50
udevadm info /dev/ublkb0; udevadm test /sys/block/ublkb0 2>&1 | tail -40
cat /run/ublk-remap/*.json`))
	}
	h.Eventually(30*time.Second, "test -e /dev/disk/by-uuid/11111111-2222-3333-4444-555555555555")
	h.Run(fmt.Sprintf("echo '%s /data ext4 defaults 0 2' >>/etc/fstab\n", fstab) + `
systemctl daemon-reload
mount /data
echo first >/data/first`)
}

func withPackage(t *testing.T) system.Options {
	needHosts(t)
	return system.Options{Disks: []int64{128 << 20},
		Payload: map[string]string{"ublk-remap.deb": deb(t, "0.0.1")}}
}
