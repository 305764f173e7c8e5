package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// rpmOf returns the rpm package of a version.
func rpmOf(t *testing.T, version string) string {
	t.Helper()
	if path, ok := packages["rpm "+version]; ok {
		return path
	}
	dir, err := os.MkdirTemp("", "ublk-remap-packages-")
	if err != nil {
		t.Fatal(err)
	}
	if err := script("../..", "scripts/package", dir, "VERSION="+version, "ARCHES=amd64",
		"FORMATS=rpm"); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	packages["rpm "+version] = found[0]
	return found[0]
}

// The rpm package is installed, upgraded and erased by rpm, its scripts run: with devices as
// the deb package. rpm is Debian's, on Debian; no other package is in its database, so it
// is told not to look for those that this one depends on.
func TestRPM(t *testing.T) {
	needHosts(t)
	long(t)
	// Debian 12's rpm refuses to work without this option, Debian 13's does not know it.
	const rpm = "rpm --nodeps " +
		"$(rpm --force-debian --version >/dev/null 2>&1 && echo --force-debian) "
	o := system.Options{Disks: []int64{128 << 20}, Packages: []string{"rpm"},
		Payload: map[string]string{"ublk-remap.rpm": rpmOf(t, "0.0.1"),
			"newer.rpm": rpmOf(t, "0.0.2-dev.1")}}
	wants := strings.TrimSpace(requires(t, rpmOf(t, "0.0.1")))
	if !strings.Contains(wants, "systemd-udev") || !strings.Contains(wants, "kmod") {
		t.Errorf("the package wants %q", wants)
	}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		install(t, h, rpm+"-i /payload/ublk-remap.rpm", byID)
		h.Run("rpm -V --nodeps ublk-remap")
		h.Run(`test "$(rpm -qf /usr/sbin/ublk-remap)" = ublk-remap-0.0.1-1.x86_64
rpm -qd ublk-remap | grep -q /man8/ublk-remap.8
rpm -qL ublk-remap | grep -q THIRD-PARTY
test -e /dev/ublk-control`)
		h.Run(writer)
		for _, step := range []struct{ how, version string }{
			{"-U /payload/newer.rpm", "0.0.2-dev.1"},
			{"-U --oldpackage /payload/ublk-remap.rpm", "0.0.1"},
			{"-U /payload/newer.rpm", "0.0.2-dev.1"},
		} {
			old := mainPID(h)
			h.Run("sleep 1; " + rpm + step.how)
			h.Run(`grep -q '"version": "` + step.version + `"' /run/ublk-remap/data.json
test "$(rpm -qa 'ublk-remap*' | wc -l)" = 1
test -x /usr/sbin/ublk-remap`)
			supervised(t, h)
			if mainPID(h) == old {
				t.Errorf("%s: the server is the old one", step.how)
			}
		}
		t.Log("writes:", h.Run(wrote))
		out, code := h.Try(rpm + "-e ublk-remap")
		if code == 0 || !strings.Contains(out, "ublk-remap stop data") {
			t.Errorf("erased under a mounted device: exit code %d: %s", code, out)
		}
		supervised(t, h)
		mounted(t, h, "after erasing was refused")
		h.Run(`umount /data
ublk-remap stop data
` + rpm + `-e ublk-remap
left=$(find / -xdev -name '*ublk-remap*' | grep -v '^/etc/ublk-remap$' || :)
test -z "$left" || { echo "left: $left"; exit 1; }
` + rpm + `-i /payload/ublk-remap.rpm
systemctl start ublk-remap@data
mount /data
test $(cat /data/first) = first`)
	})
}

func requires(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("rpm", "-qp", "--requires", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
