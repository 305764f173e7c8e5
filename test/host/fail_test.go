package host

import (
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// dropIn gives the unit of data more lines.
func dropIn(h *system.Host, name, text string) {
	h.Run("mkdir -p /etc/systemd/system/ublk-remap@data.service.d\n" +
		"cat >/etc/systemd/system/ublk-remap@data.service.d/" + name + ".conf <<'END'\n" + text +
		"\nEND\nsystemctl daemon-reload")
}

// A server that dies in the middle of a boot, between its start and the mount, is followed by
// another one, and the boot goes on. So does one whose first starts fail, because something else
// has the disk for a moment.
func TestFailsAtBoot(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Packages = []string{"dmsetup"}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, byUUID)
		dropIn(h, "dies", `[Service]
ExecStartPost=/bin/sh -c '[ -e /run/died ] || { touch /run/died; kill -9 $MAINPID; sleep 1; }'`)
		h.Reboot()
		h.Run("test -e /run/died")
		h.Eventually(30*time.Second, "systemctl -q is-active ublk-remap@data")
		mounted(t, h, "after the server died in the boot")

		h.Run(`
cat >/usr/local/sbin/hold <<'END'
#!/bin/sh
[ ! -e /run/held ] || exit 0
touch /run/held
# Not in the unit, which may not do that.
systemd-run -q -p DefaultDependencies=no -p IgnoreOnIsolate=yes sh -c \
	'dmsetup create --table "0 8 linear /dev/ubdc 0" hold; sleep 8; dmsetup remove --retry hold'
while [ ! -e /dev/mapper/hold ]; do sleep 0.1; done
END
chmod 755 /usr/local/sbin/hold`)
		dropIn(h, "dies", "[Service]\nExecStartPre=+/usr/local/sbin/hold")
		h.Reboot()
		h.Eventually(60*time.Second, "systemctl -q is-active ublk-remap@data")
		h.Run("journalctl -b -u ublk-remap@data | grep 'Scheduled restart job'")
		mounted(t, h, "after starts that failed")
	})
}

// A start that was refused is not tried again by systemd if the reason lasts, such as a file that
// others can write. It is tried again if the reason can pass, such as a second copy of the disk.
func TestStartRefused(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{32 << 20, 32 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, `
ublk-remap create --name data /dev/ubdc
echo 'queues = 1' >/etc/ublk-remap/data.toml
chmod 666 /etc/ublk-remap/data.toml
if systemctl start ublk-remap@data; then exit 1; fi
test "$(systemctl is-active ublk-remap@data)" = failed
test "$(systemctl show -P ExecMainStatus ublk-remap@data)" = 3
test "$(systemctl show -P NRestarts ublk-remap@data)" = 0
ublk-remap doctor | grep -q 'warning *configuration */etc/ublk-remap/data.toml: refused'
chmod 644 /etc/ublk-remap/data.toml
ublk-remap doctor | grep -q 'ok *configuration */etc/ublk-remap/data.toml$'
systemctl start ublk-remap@data
systemctl stop ublk-remap@data
dd if=/dev/ubdc of=/dev/ubdd bs=1M conv=fsync status=none
! systemctl start ublk-remap@data`)
		h.Eventually(time.Minute, "test $(systemctl show -P NRestarts ublk-remap@data) -ge 2")
		log := h.Run("journalctl -b -u ublk-remap@data --no-pager")
		if !strings.Contains(log, "status=75") {
			t.Errorf("no start was refused for a reason that can pass:\n%s", log)
		}
		h.Run("dd if=/dev/zero of=/dev/ubdd bs=1M count=32 conv=fsync status=none")
		h.Eventually(time.Minute, "systemctl -q is-active ublk-remap@data")
	})
}

// Without its disk, a mount that is not nofail leads to emergency mode, as for any disk. The next
// boot with the disk is a good one.
func TestMissingDiskStops(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run("sed -i '/ \\/data /s/defaults/x-systemd.device-timeout=5s/' /etc/fstab")
		h.PowerOff()
		h.Without(0)
		h.Boot()
		h.Eventually(60*time.Second, "systemctl -q is-active emergency.target")
		h.Run(`test "$(systemctl is-active data.mount)" = inactive`)
		h.PowerOff()
		h.With(0)
		h.Boot()
		mounted(t, h, "after the disk came back")
	})
}

// If there are two copies of one set, neither is served automatically, even if one of them is
// newer. The log says which disks they are.
func TestTwoCopies(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{128 << 20, 128 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(`
sed -i '/ \/data /s/defaults/nofail,x-systemd.device-timeout=30s/' /etc/fstab
systemctl daemon-reload
umount /data
systemctl stop ublk-remap@data
dd if=/dev/ubdc of=/dev/ubdd bs=1M conv=fsync status=none`)
		h.PowerOff()
		h.Boot()
		h.Run("sleep 12; test ! -e /dev/ublkb0")
		log := h.Run("journalctl -b -u ublk-remap@data --no-pager")
		if !strings.Contains(log, "/dev/ubdc") || !strings.Contains(log, "/dev/ubdd") {
			t.Errorf("the log does not name the copies:\n%s", log)
		}
		h.PowerOff()
		h.Without(1)
		h.Boot()
		h.Eventually(60*time.Second, "test $(cat /data/first) = first")
		mounted(t, h, "with one of the copies")
		h.Run("echo newer >/data/newer")
		h.PowerOff()
		h.With(1)
		h.Boot()
		h.Run("sleep 12; test ! -e /dev/ublkb0")
	})
}

// A server that hangs is ended by systemd's watchdog, and the next one takes over. The watchdog
// does not react to a disk that hangs.
func TestWatchdog(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Packages = []string{"dmsetup"}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, `
dmsetup create slow --table "0 $(blockdev --getsz /dev/ubdc) linear /dev/ubdc 0"
ublk-remap create --name data /dev/mapper/slow`)
		dropIn(h, "watchdog", "[Service]\nWatchdogSec=12")
		h.Run(`
systemctl start ublk-remap@data
mkfs.ext4 -q /dev/disk/by-id/ublk-remap-data
mkdir /data
mount /dev/disk/by-id/ublk-remap-data /data`)
		h.Run(writer)
		old := mainPID(h)
		h.Run(`
sleep 1
dmsetup suspend --noflush --nolockfs slow
sleep 40`)
		if mainPID(h) != old {
			t.Error("a server was replaced because its disk hangs")
		}
		h.Run("ublk-remap status data | grep 'nothing has come back'; dmsetup resume slow")
		supervised(t, h)

		for _, hang := range []string{"-STOP", "-ABRT"} {
			old = mainPID(h)
			h.Run("sleep 1; kill " + hang + " " + old)
			h.Eventually(2*time.Minute, `
pid=$(systemctl show -P MainPID ublk-remap@data)
test "$pid" != 0 && test "$pid" != `+old+` && systemctl -q is-active ublk-remap@data`)
			supervised(t, h)
		}
		log := h.Run("journalctl -b -u ublk-remap@data --no-pager")
		if strings.Count(log, "Watchdog timeout") != 1 {
			t.Errorf("the watchdog:\n%s", log)
		}
		t.Log("writes:", h.Run(wrote))
	})
}

// What the unit may do is enough: bad sectors heal, the device is recovered, the server is swapped,
// and all of it ends in order. docs/BOOT.md has systemd's rating of the unit.
func TestHardened(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Packages = []string{"dmsetup"}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, `
size=$(blockdev --getsz /dev/ubdc)
dmsetup create bad --table "0 $size linear /dev/ubdc 0"
ublk-remap create --name data /dev/mapper/bad
dmsetup reload bad --table "0 100000 linear /dev/ubdc 0
100000 64 error
100064 $((size - 100064)) linear /dev/ubdc 100064"
dmsetup resume bad
systemctl start ublk-remap@data
# Its number can be another one after it was stopped.
device=/dev/disk/by-id/ublk-remap-data
test -b $device
dd if=/dev/urandom of=/run/data bs=512 count=256 status=none
dd if=/run/data of=$device bs=512 seek=99904 oflag=direct status=none
dd if=$device bs=512 skip=99904 count=256 iflag=direct status=none | cmp - /run/data
test "$(ublk-remap status --json data | sed -n 's/.*"remaps": \([0-9]*\).*/\1/p')" = 8
kill -9 $(systemctl show -P MainPID ublk-remap@data)
dd if=$device bs=512 skip=99904 count=256 iflag=direct status=none | cmp - /run/data
while ! systemctl -q is-active ublk-remap@data; do sleep 0.2; done
systemctl reload ublk-remap@data
dd if=$device bs=512 skip=99904 count=256 iflag=direct status=none | cmp - /run/data
systemctl stop ublk-remap@data
ublk-remap metadata check /dev/mapper/bad
systemctl start ublk-remap@data
dd if=$device bs=512 skip=99904 count=256 iflag=direct status=none | cmp - /run/data`)
		refused(t, h)
		t.Log(h.Run("systemd-analyze security --no-pager ublk-remap@data | tail -1"))
	})
}

// refused looks whether the unit really cannot do what is not allowed to it.
func refused(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(`
pid=$(systemctl show -P MainPID ublk-remap@data)
grep -qx 'NoNewPrivs:	1' /proc/$pid/status
grep -qx 'Seccomp:	2' /proc/$pid/status
cat >/run/open <<'END'
echo $$ >/sys/fs/cgroup/ublkremap.slice/ublk-remap@data.service/cgroup.procs
exec 3<$1
END
for device in /dev/ubdc /dev/ublk-control /dev/null; do
	sh /run/open $device || { echo "$device cannot be opened"; exit 1; }
done
for device in /dev/ttyS1 /dev/kmsg /dev/mapper/control; do
	sh -c "exec 3<$device"
	! sh /run/open $device 2>/dev/null || { echo "$device can be opened"; exit 1; }
done`)
}
