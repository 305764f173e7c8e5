package host

import (
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// A set is enabled, and its file system is there after a boot, without a command about units. The
// configuration is changed while the file system is mounted, and is damaged when the server dies.
func TestEnabled(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		prepared(h, `
test -d /etc/ublk-remap
ublk-remap config check
ublk-remap create --name data /dev/ubdc
ublk-remap scan
ublk-remap enable --now --fail-fast 30s --depth 32 /dev/ubdc
test -b /dev/disk/by-id/ublk-remap-data
mkfs.ext4 -q -L label -U 11111111-2222-3333-4444-555555555555 /dev/disk/by-id/ublk-remap-data
udevadm trigger --settle /dev/ublkb0
mkdir /data
echo 'UUID=11111111-2222-3333-4444-555555555555 /data ext4 defaults 0 2' >>/etc/fstab
systemctl daemon-reload
mount /data
echo first >/data/first`)
		h.Reboot()
		mounted(t, h, "after a reboot")
		supervised(t, h)
		h.Run(`
ublk-remap config show data
ublk-remap scan | grep -q '^/dev/ubdc  *data  *live  *\S*ublkb0  *yes'
grep -q '"fail-fast": "30s"' /run/ublk-remap/data.json
grep -q '"depth": 32' /run/ublk-remap/data.json`)
		reloaded(t, h)
		damagedConfig(t, h)
		mounted(t, h, "with a damaged configuration")

		h.Run(`
sed -i '/ \/data /d' /etc/fstab
umount /data
sed -i '/^quues/d' /etc/ublk-remap/data.toml
ublk-remap disable --now data
test ! -e /dev/ublkb0`)
		h.Reboot()
		h.Run(`
test ! -e /dev/ublkb0
ublk-remap scan | grep -q '^/dev/ubdc  *data  *stopped  *-  *no'
ublk-remap start --all
test -b /dev/ublkb0
grep -q '"depth": 64' /run/ublk-remap/data.json
ublk-remap stop --all
dpkg -P ublk-remap
test ! -e /etc/ublk-remap`)
	})
}

// reloaded changes the configuration of a mounted device.
func reloaded(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(writer)
	old := mainPID(h)
	h.Run(`
sed -i 's/30s/40s/; s/^depth.*/depth = 64/' /etc/ublk-remap/data.toml
ublk-remap config check data
sleep 1
systemctl reload ublk-remap@data
grep -q '"fail-fast": "40s"' /run/ublk-remap/data.json
grep -q '"depth": 32' /run/ublk-remap/data.json
journalctl -u ublk-remap@data | grep -q 'fail-fast 30s -> 40s; depth 32 -> 64: not before'
ublk-remap config show data | grep -q '^depth  *64  *\S*  *32  *restart'`)
	supervised(t, h)
	if mainPID(h) == old {
		t.Error("a reload has changed nothing")
	}
	t.Log("writes:", h.Run(wrote))
}

// damagedConfig damages the configuration of a mounted device. A reload is refused, and no process
// waits when the server dies.
func damagedConfig(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(`echo 'quues = 2' >>/etc/ublk-remap/data.toml`)
	h.Run(writer)
	old := mainPID(h)
	if out, code := h.Try("systemctl reload ublk-remap@data"); code == 0 {
		t.Errorf("a reload of a damaged file: %s", out)
	}
	h.Run(`journalctl -u ublk-remap@data | grep -q 'data.toml:[0-9]*:1: there is no key "quues"'`)
	if mainPID(h) != old {
		t.Error("a reload that fails has changed the server")
	}
	supervised(t, h)
	h.Run("sleep 1; kill -9 " + old)
	h.Eventually(30*time.Second, `
pid=$(systemctl show -P MainPID ublk-remap@data)
test "$pid" != 0 && test "$pid" != `+old+` && systemctl -q is-active ublk-remap@data`)
	supervised(t, h)
	h.Run(`
grep -q '"fail-fast": "40s"' /run/ublk-remap/data.json
journalctl -u ublk-remap@data | grep -q 'goes on with what its last server had'`)
	t.Log("writes:", h.Run(wrote))
}

// Sets that are enabled are started and stopped all at once, by their units. An enable that fails
// leaves nothing behind.
func TestAllAndReadOnly(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{64 << 20, 64 << 20, 64 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, `
ublk-remap create --name one /dev/ubdc
ublk-remap create --name two /dev/ubdd
ublk-remap create --name a@b /dev/ubde
ublk-remap enable one
ublk-remap enable /dev/ubdd
test ! -e /dev/ublkb0
ublk-remap start --all
systemctl -q is-active ublk-remap@one ublk-remap@two
test -b /dev/disk/by-id/ublk-remap-two
ublk-remap start --all | grep -q '^one .* running$'`)
		out, code := h.Try("ublk-remap enable a@b")
		if code != 2 || !strings.Contains(out, "no unit can be called so") {
			t.Errorf("a name that no unit has: %d, %s", code, out)
		}
		h.Run(`
mkfs.ext4 -q /dev/disk/by-id/ublk-remap-one
mount /dev/disk/by-id/ublk-remap-one /mnt`)
		out, code = h.Try("ublk-remap stop --all")
		if code != 3 || !strings.Contains(out, "/mnt") {
			t.Errorf("one is mounted: %d, %s", code, out)
		}
		h.Run(`
systemctl -q is-active ublk-remap@one
umount /mnt
ublk-remap stop --all`)
		h.Eventually(30*time.Second, `
test "$(systemctl is-active ublk-remap@one ublk-remap@two | sort -u)" = inactive`)

		// /etc is read-only, all of it and the units only.
		h.Run(`
ublk-remap disable one
rm /etc/ublk-remap/one.toml
mount --bind /etc /etc
mount -o remount,bind,ro /etc`)
		out, code = h.Try("ublk-remap enable one")
		if code != 1 || !strings.Contains(out, "read-only") ||
			!strings.Contains(out, "nothing was changed") {
			t.Errorf("/etc is read-only: %d, %s", code, out)
		}
		if out, code = h.Try("ublk-remap disable two"); code == 0 ||
			!strings.Contains(strings.ToLower(out), "read-only") {
			t.Errorf("/etc is read-only: %d, %s", code, out)
		}
		h.Run(`
umount /etc
mount --bind /etc/systemd /etc/systemd
mount -o remount,bind,ro /etc/systemd`)
		out, code = h.Try("ublk-remap enable one")
		if code != 1 || !strings.Contains(strings.ToLower(out), "read-only") {
			t.Errorf("/etc/systemd is read-only: %d, %s", code, out)
		}
		h.Run(`
test ! -e /etc/ublk-remap/one.toml
umount /etc/systemd
test -L /etc/systemd/system/ublk-remap.target.wants/ublk-remap@two.service
ublk-remap enable --now one
test "$(ublk-remap disable --json one | grep -c '"enabled": false')" = 1
systemctl -q is-active ublk-remap@one`)
	})
}
