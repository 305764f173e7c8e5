package host

import (
	"fmt"
	"testing"

	"ublkremap/test/vmtest/system"
)

// Many devices are served when the system is switched off, some of them with a mounted file system.
// All servers end in order. The time is in the log, as that of systemctl poweroff.
func TestManyAtShutdown(t *testing.T) {
	long(t)
	const n, step, size = 100, 10, 24 << 20
	o := withPackage(t)
	o.Disks = []int64{n * size}
	o.MemoryMiB = 3 << 10
	o.Packages = []string{"dmsetup"}
	// User-mode Linux has 16 disks at most, so the disks are parts of one.
	parts := fmt.Sprintf(`
for i in $(seq 0 %d); do
	dmsetup create d$i --table "0 %d linear /dev/ubdc $((i * %[2]d))"
done
udevadm settle`, n-1, size/512)
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, parts)
		for i := 0; i < n; i += step {
			h.Run(fmt.Sprintf(`
units=
for i in $(seq %d %d); do
	ublk-remap create --name d$i --spare 1MiB /dev/mapper/d$i
	echo 'queues = 1' >/etc/ublk-remap/d$i.toml
	units="$units ublk-remap@d$i"
done
systemctl start $units || {
	systemctl --failed --no-legend
	journalctl -b --no-pager | grep -e 'ublk-remap\[' -e systemd | tail -n 60
	exit 1
}
mkdir /d%[1]d
mkfs.ext4 -q /dev/disk/by-id/ublk-remap-d%[1]d
mount /dev/disk/by-id/ublk-remap-d%[1]d /d%[1]d
echo written >/d%[1]d/file`, i, i+step-1))
		}
		h.Run(fmt.Sprintf("test $(ublk-remap list | grep -c live) = %d", n))
		h.PowerOff()
		h.Boot()
		h.Run(parts)
		for i := range n {
			disk := fmt.Sprintf("/dev/mapper/d%d", i)
			h.Run("ublk-remap metadata check " + disk)
			endedInOrder(t, h.Run("ublk-remap metadata dump --json "+disk))
			if i%step == 0 {
				h.Run(fmt.Sprintf(`
ublk-remap start --id 200 %s
fsck.ext4 -fn /dev/ublkb200
mount -o ro /dev/ublkb200 /mnt
test $(cat /mnt/file) = written
umount /mnt
ublk-remap stop d%d`, disk, i))
			}
		}
	})
}
