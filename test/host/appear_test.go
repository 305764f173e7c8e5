package host

import (
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// scsiDisk makes the disk /dev/sda, which can be plugged and unplugged.
const scsiDisk = `
modprobe scsi_debug dev_size_mb=128
udevadm settle
test -b /dev/sda`

// smartctl is a program in the place of smartctl. It keeps the limits of one drive in a file,
// because no drive of a host here has such limits.
const smartctl = `
echo '0 0' >/root/limits
cat >/usr/sbin/smartctl <<'END'
#!/bin/sh
case $3 in
scterc,*) echo "${3#scterc,}" | tr , ' ' >/root/limits ;;
esac
limit() {
	[ "$1" = 0 ] && echo '{"enabled": false}' || echo "{\"enabled\": true, \"deciseconds\": $1}"
}
read r w </root/limits
echo "{\"smartctl\": {\"exit_status\": 0}," \
	"\"ata_sct_erc\": {\"read\": $(limit $r), \"write\": $(limit $w)}}"
END
chmod 755 /usr/sbin/smartctl`

// A unit whose server is stopped by a signal restores the limits of the drive and of the kernel.
func TestSignalRestoresLimits(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		prepared(h, scsiDisk+smartctl+`
ublk-remap create --name data /dev/sda
systemctl start ublk-remap@data
test "$(cat /root/limits)" = '70 70'
systemctl kill ublk-remap@data`)
		h.Eventually(time.Minute, `test "$(systemctl is-active ublk-remap@data)" = inactive`)
		h.Run(`
test "$(cat /root/limits)" = '0 0'
test -z "$(find /run/ublk-remap -name '.drive-*')"
rm /usr/sbin/smartctl
systemctl start ublk-remap@data
test "$(cat /sys/block/sda/device/timeout)" = 180
systemctl kill ublk-remap@data`)
		h.Eventually(time.Minute, `test "$(systemctl is-active ublk-remap@data)" = inactive`)
		h.Run(`
test "$(cat /sys/block/sda/device/timeout)" = 30
test -z "$(find /run/ublk-remap -name '.drive-*')"`)
	})
}

// An enabled set starts when its disk appears, and not when a disk is only looked at: one
// that was stopped stays so.
func TestDiskAppears(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		prepared(h, scsiDisk+`
ublk-remap create --name data /dev/sda
systemctl enable --now ublk-remap@data
test -b /dev/disk/by-id/ublk-remap-data
ublk-remap stop data
udevadm trigger --settle /dev/sda
sleep 1
test ! -e /dev/ublkb0
echo 1 >/sys/block/sda/device/delete
udevadm settle
test ! -e /dev/sda
for host in /sys/class/scsi_host/host*; do echo '- - -' >$host/scan; done`)
		h.Eventually(30*time.Second, `
test -b /dev/disk/by-id/ublk-remap-data && systemctl -q is-active ublk-remap@data`)
		h.Run(`
systemctl disable ublk-remap@data
ublk-remap stop data
for disk in /sys/block/sd?; do echo 1 >$disk/device/delete; done
udevadm settle
for host in /sys/class/scsi_host/host*; do echo '- - -' >$host/scan; done
udevadm settle
sleep 2
test ! -e /dev/ublkb0
test "$(systemctl is-active ublk-remap@data)" = inactive`)
	})
}

// A set with a spare device starts at boot, whichever of the two disks comes first;
// partitions of its device have their links.
func TestSpareDeviceAndPartitions(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{128 << 20, 64 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, `
ublk-remap create --name data --spare-device /dev/ubdd /dev/ubdc
systemctl enable --now ublk-remap@data
printf 'label: gpt\nsize=32M, name=one, uuid=aaaaaaaa-2222-3333-4444-555555555555\nsize=32M\n' |
	sfdisk -q /dev/disk/by-id/ublk-remap-data
while [ ! -e /dev/disk/by-partuuid/aaaaaaaa-2222-3333-4444-555555555555 ] ||
	[ ! -e /dev/disk/by-id/ublk-remap-data-part2 ]; do
	sleep 0.1
done
mkfs.ext4 -q /dev/disk/by-partuuid/aaaaaaaa-2222-3333-4444-555555555555
mkfs.ext4 -q -L two /dev/disk/by-id/ublk-remap-data-part2
while [ ! -e /dev/disk/by-label/two ]; do sleep 0.1; done
mkdir /data /two /path
cat >>/etc/fstab <<'END'
PARTUUID=aaaaaaaa-2222-3333-4444-555555555555 /data ext4 defaults 0 2
LABEL=two /two ext4 defaults 0 2
/dev/ublkb0p1 /path ext4 defaults 0 2
END
systemctl daemon-reload
mount -a
echo first >/data/first
echo two >/two/two`)
		h.Reboot()
		h.Run(`
test "$(cat /data/first)" = first
test "$(findmnt -no SOURCE /data)" = /dev/ublkb0p1
test "$(cat /two/two) $(cat /path/first)" = 'two first'
for link in by-id/ublk-remap-data-part1 by-partlabel/one; do
	test "$(readlink -f /dev/disk/$link)" = /dev/ublkb0p1
done
test "$(readlink -f /dev/disk/by-id/ublk-remap-data-part2)" = /dev/ublkb0p2
test "$(readlink -f /dev/disk/by-id/ublk-remap-data)" = /dev/ublkb0
for disk in ubdc ubdd; do
	udevadm info /dev/$disk | grep -qx 'E: SYSTEMD_READY=0'
done
test -z "$(systemctl --failed --no-legend)"`)
	})
}

// A disk that is missing at boot holds nothing up if its mount is nofail, and it is mounted
// when the disk comes.
func TestMissingDisk(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run("sed -i '/ \\/data /s/defaults/nofail,x-systemd.device-timeout=9s/' /etc/fstab")
		h.PowerOff()
		h.Without(0)
		h.Boot()
		h.Run(`
systemctl -q is-active multi-user.target
test -z "$(systemctl --failed --no-legend)"
test ! -e /dev/disk/by-id/ublk-remap-data
test "$(systemctl is-active ublk-remap@data)" = inactive`)
		h.PowerOff()
		h.With(0)
		h.Boot()
		h.Eventually(30*time.Second, "test $(cat /data/first) = first")
		mounted(t, h, "after the disk came back")
	})
}

// No other program uses the disk of a stopped set, or the partition that marks the disk as in use:
// the tools of each release see a partition table, and refuse to write without being forced to.
// Once the disk is released, both are as on any disk.
func TestDiskIsInUse(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Packages = []string{"btrfs-progs", "dosfstools", "file", "parted", "xfsprogs"}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, scsiDisk+`
mkfs.ext4 -q -F /dev/sda 100M
ublk-remap create --name data --in-place --yes /dev/sda
udevadm settle
in_use() {
	test "$(lsblk -dno PTTYPE,FSTYPE /dev/sda | xargs)" = dos
	test "$(lsblk -no PARTTYPE,FSTYPE /dev/sda1 | xargs)" = 0xda
	for disk in sda sda1; do
		udevadm info -q property /dev/$disk >/tmp/properties
		grep -qx SYSTEMD_READY=0 /tmp/properties
		grep -qx UDISKS_IGNORE=1 /tmp/properties
	done
	if grep UBLK_REMAP_INSTANCE /tmp/properties; then return 1; fi
}
in_use
blkid -p -o export /dev/sda >/tmp/sees
grep -qx PTTYPE=dos /tmp/sees
if grep '^TYPE=' /tmp/sees; then exit 1; fi
wipefs /dev/sda | grep -q '0x1fe .*dos'
test -z "$(wipefs --noheadings /dev/sda1)"
fdisk -l /dev/sda | grep -q 'da Non-FS data'
parted -s /dev/sda print | grep -q 'Partition Table: msdos'
file -s /dev/sda | grep -q 'DOS/MBR boot sector'
was=$(sha256sum </dev/sda)
for mkfs in mkfs.xfs mkfs.btrfs mkfs.vfat; do
	if $mkfs /dev/sda >/tmp/refuses 2>&1; then
		echo "$mkfs made a file system"
		exit 1
	fi
	grep -qi partition /tmp/refuses || { cat /tmp/refuses; exit 1; }
done
test "$(sha256sum </dev/sda)" = "$was"
echo n | script -qec 'mkfs.ext4 /dev/sda' /dev/null >/tmp/asks || true
grep -q 'Found a dos partition table in /dev/sda' /tmp/asks
systemctl enable --now ublk-remap@data
udevadm trigger --settle /dev/sda /dev/sda1
in_use
mkdir /data
mount /dev/disk/by-id/ublk-remap-data /data
if mkfs.ext4 -q -F /dev/sda1; then exit 1; fi
echo first >/data/first
umount /data
ublk-remap stop data
udevadm settle
in_use
ublk-remap release --yes /dev/sda
udevadm settle
test ! -e /dev/sda1
test "$(lsblk -dno FSTYPE /dev/sda)" = ext4
udevadm info -q property /dev/sda >/tmp/properties
if grep -e SYSTEMD_READY -e UDISKS_IGNORE -e UBLK_REMAP /tmp/properties; then exit 1; fi
mount /dev/sda /data
test "$(cat /data/first)" = first`)
	})
}
