package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// writer starts a program that appends numbers to a file on the device, flushed one by one,
// until it is told to stop or a write fails.
const writer = `
cat >/run/writer <<'END'
n=0
while [ ! -e /run/enough ] && echo $n >>/data/numbers && sync /data/numbers; do
	n=$((n + 1))
done
echo "$n" >/run/written
END
rm -f /run/enough /run/written /data/numbers
systemd-run -q --unit writer sh /run/writer`

// wrote ends the writer and looks whether all of its writes went well.
const wrote = `
touch /run/enough
while systemctl -q is-active writer; do sleep 0.1; done
test "$(wc -l </data/numbers)" = "$(cat /run/written)"
test "$(tail -n 1 /data/numbers)" = $(($(cat /run/written) - 1))
test "$(cat /run/written)" -gt 10
cat /run/written`

func mainPID(h *system.Host) string {
	return h.Run("systemctl show -P MainPID ublk-remap@data")
}

// supervised looks whether systemd has the process that serves.
func supervised(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(`
systemctl is-active ublk-remap@data
pid=$(systemctl show -P MainPID ublk-remap@data)
test "$pid" != 0
grep -q "\"pid\": $pid," /run/ublk-remap/data.json`)
}

// A server that is killed is started again by systemd, and a process that writes to the mounted
// file system notices nothing.
func TestServerKilled(t *testing.T) {
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(writer)
		for range 3 {
			old := mainPID(h)
			h.Run("sleep 1; kill -9 " + old)
			h.Eventually(30*time.Second, `
pid=$(systemctl show -P MainPID ublk-remap@data)
test "$pid" != 0 && test "$pid" != `+old+` && systemctl -q is-active ublk-remap@data`)
			supervised(t, h)
		}
		t.Log("writes:", h.Run(wrote))
		mounted(t, h, "after three deaths")
		links(t, h)
	})
}

// No udev rule opens a device that waits for its server, so udev does not hang.
func TestWaitingDevice(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(`
mkdir -p /run/systemd/system/ublk-remap@data.service.d
printf '[Service]\nRestart=no\n' >/run/systemd/system/ublk-remap@data.service.d/no.conf
systemctl daemon-reload
kill -9 $(systemctl show -P MainPID ublk-remap@data)
while systemctl -q is-active ublk-remap@data; do sleep 0.1; done
udevadm trigger /dev/ublkb0
timeout 20 udevadm settle
test "$(readlink -f /dev/disk/by-uuid/11111111-2222-3333-4444-555555555555)" = /dev/ublkb0
udevadm info /dev/ublkb0 | grep -qx 'E: UBLK_REMAP_SERVED=0'
findmnt /data
systemctl start ublk-remap@data
echo again >/data/again
udevadm trigger --settle /dev/ublkb0
udevadm info /dev/ublkb0 | grep -qx 'E: UBLK_REMAP_SERVED=1'`)
	})
}

// Only a command of the user removes a device. Whatever is asked of systemd, the device stays under
// its file system, and stops once the file system is not mounted any more.
func TestStopMounted(t *testing.T) {
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(writer)
		out, code := h.Try("systemctl stop ublk-remap@data")
		if code == 0 || !strings.Contains(out, "cancel") {
			t.Errorf("a stop of a device in use: exit code %d: %s", code, out)
		}
		servesOn(t, h)
		if why := h.Run("journalctl -b -u ublk-remap@data --no-pager"); !strings.Contains(why,
			"is in use: mounted on /data") {
			t.Errorf("the log does not say why it was not stopped:\n%s", why)
		}
		old := mainPID(h)
		h.Run("systemctl restart ublk-remap@data")
		servesOn(t, h)
		if mainPID(h) == old {
			t.Error("after a restart the server is the old one")
		}
		for _, ask := range []string{"systemctl stop ublkremap.slice", "ublk-remap stop data"} {
			if out, code := h.Try(ask); code == 0 {
				t.Errorf("%s: it was done: %s", ask, out)
			}
			supervised(t, h)
		}
		h.Run("systemctl kill ublk-remap@data; sleep 1")
		supervised(t, h)
		t.Log("writes:", h.Run(wrote))
		h.Run("systemctl isolate rescue.target; sleep 1")
		supervised(t, h)
		h.Run("systemctl isolate multi-user.target; echo again >/data/again")
		h.Run(`
umount /data
systemctl stop ublk-remap@data
test "$(systemctl is-active ublk-remap@data)" = inactive
test ! -e /dev/ublkb0
systemctl start ublk-remap@data
systemctl restart ublk-remap@data
mount /data
test $(cat /data/first) = first
umount /data
ublk-remap stop data
while [ "$(systemctl is-active ublk-remap@data)" = deactivating ]; do sleep 0.1; done
sleep 2
test "$(systemctl is-active ublk-remap@data)" = inactive
test ! -e /dev/ublkb0
systemctl start ublk-remap@data
mount /data
test $(cat /data/first) = first`)
	})
}

// servesOn waits until a unit that was asked to stop is what it was before.
func servesOn(t *testing.T, h *system.Host) {
	t.Helper()
	h.Eventually(60*time.Second, "systemctl -q is-active ublk-remap@data && "+
		"test -z \"$(systemctl list-jobs --no-legend)\"")
	supervised(t, h)
	mounted(t, h, "after the unit was asked to stop")
}

// A server that is stopped and dies in the same moment is still followed by another one: the stop
// was refused.
func TestStopMountedDies(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(writer + `
sleep 1
systemctl stop ublk-remap@data &
while [ "$(systemctl is-active ublk-remap@data)" = active ]; do :; done
sleep 1
kill -9 $(systemctl show -P MainPID ublk-remap@data)
wait`)
		h.Eventually(60*time.Second, "systemctl -q is-active ublk-remap@data")
		t.Log("writes:", h.Run(wrote))
		mounted(t, h, "after the server died in a stop that was refused")
	})
}

// The servers that run go on as the new version, with their file systems mounted, and supervised by
// systemd. The same holds for an older version. One that cannot be upgraded serves on.
func TestPackageUpgrade(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Payload["newer.deb"] = deb(t, "0.0.2")
	o.Payload["broken.deb"] = broken(t, deb(t, "0.0.2"))
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(writer)
		for _, step := range []struct{ deb, version string }{
			{"newer", "0.0.2"}, {"ublk-remap", "0.0.1"}, {"newer", "0.0.2"},
		} {
			old := mainPID(h)
			h.Run("sleep 1; dpkg -i /payload/" + step.deb + ".deb")
			h.Run(`grep -q '"version": "` + step.version + `"' /run/ublk-remap/data.json`)
			supervised(t, h)
			if mainPID(h) == old {
				t.Errorf("%s: the server is the old one", step.deb)
			}
		}
		old := mainPID(h)
		out := h.Run("dpkg -i --force-confold /payload/broken.deb 2>&1")
		if !strings.Contains(out, "not upgraded") || mainPID(h) != old {
			t.Errorf("a server that cannot be upgraded: %s", out)
		}
		supervised(t, h)
		h.Run("dpkg -i /payload/newer.deb")
		supervised(t, h)
		old = mainPID(h)
		h.Run("kill -9 " + old)
		h.Eventually(30*time.Second, "systemctl -q is-active ublk-remap@data && "+
			"test $(systemctl show -P MainPID ublk-remap@data) != "+old)
		supervised(t, h)
		t.Log("writes:", h.Run(wrote))
		mounted(t, h, "after the upgrades")
	})
}

// broken makes a package of another one whose program fails to upgrade servers.
func broken(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	to := filepath.Join(dir, "broken.deb")
	const script = `set -e
dpkg-deb -R "$1" "$2/root"
cd "$2/root/usr/sbin"
mv ublk-remap ublk-remap.real
cat >ublk-remap <<'END'
#!/bin/sh
[ "$1" != upgrade ] || { echo 'it is broken' >&2; exit 1; }
exec /usr/sbin/ublk-remap.real "$@"
END
chmod 755 ublk-remap
dpkg-deb --root-owner-group -Znone -b "$2/root" "$3"`
	if out, err := exec.Command("sh", "-c", script, "broken", deb, dir, to).
		CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(to); err != nil {
		t.Fatal(err)
	}
	return to
}

// The package is not removed while a device is served. Otherwise it is removed, and disks keep
// their contents.
func TestPackageRemoval(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		out, code := h.Try("dpkg -r ublk-remap")
		if code == 0 || !strings.Contains(out, "ublk-remap stop data") {
			t.Errorf("removal with a mounted device: exit code %d: %s", code, out)
		}
		// The removal is also refused if it cannot find out what is served.
		out, code = h.Try("chmod 777 /run/ublk-remap; dpkg -r ublk-remap")
		h.Run("chmod 700 /run/ublk-remap")
		if code == 0 || !strings.Contains(out, "cannot be told") {
			t.Errorf("removal when nothing can be asked: exit code %d: %s", code, out)
		}
		supervised(t, h)
		mounted(t, h, "after the removal was refused")
		h.Run(`
test "$(dpkg-query -W -f '${db:Status-Status}' ublk-remap)" = installed
umount /data
ublk-remap stop data
dpkg -r ublk-remap
test -L /etc/systemd/system/ublk-remap.target.wants/ublk-remap@data.service
dpkg -P ublk-remap
test ! -e /etc/systemd/system/ublk-remap.target.wants
test ! -e /run/ublk-remap
test -z "$(find / -xdev -name '*ublk-remap*' -not -path '/proc/*' | grep -v '^/sys')"
dpkg -i /payload/ublk-remap.deb
systemctl start ublk-remap@data
mount /data
test $(cat /data/first) = first`)
	})
}
