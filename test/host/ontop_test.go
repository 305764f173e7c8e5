package host

import (
	"fmt"
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// onTop lists what is set up on top of devices, by the commands of docs/BOOT.md. Sets are on the
// disks in their order.
var onTop = []struct {
	heading string
	words   []string
	dir     string // where a file system of it is mounted
}{
	{"Swap", []string{"/dev/sdX", "/dev/ubdc"}, ""},
	{"LVM", []string{"/dev/sdX", "/dev/ubdd"}, "/volume"},
	{"MD RAID", []string{"/dev/sdX", "/dev/ubde", "/dev/sdY", "/dev/ubdf"}, "/raid"},
	{"dm-crypt", []string{"/dev/sdX", "/dev/ubdg"}, "/secret"},
	{"btrfs", []string{"/dev/sdX", "/dev/ubdh"}, "/tree"},
}

// there looks whether all of it is there, and nothing failed.
const there = `
test "$(swapon --show=NAME --noheadings)" = "$(readlink -f /dev/disk/by-id/ublk-remap-swap)"
for dir in /volume /raid /secret /tree; do
	findmnt $dir >/dev/null
	test "$(cat $dir/first)" = first
done
grep -q 'raid1.*\[[0-9]\].*\[[0-9]\]' /proc/mdstat
grep -q '\[UU\]' /proc/mdstat
for name in swap lvm one two crypt tree; do
	systemctl is-active ublk-remap@$name >/dev/null
done
test -z "$(systemctl --failed --no-legend)"`

// Swap, LVM, MD RAID, dm-crypt and btrfs on devices: set up as docs/BOOT.md says, with servers
// that die, at boot, and clean after the host was switched off.
func TestOnTop(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.MemoryMiB = 1024
	o.Packages = []string{"lvm2", "mdadm", "cryptsetup", "btrfs-progs"}
	o.PackagesOf = map[string][]string{"trixie": {"systemd-cryptsetup"}}
	o.Disks = []int64{128 << 20, 128 << 20, 128 << 20, 128 << 20, 128 << 20, 256 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, "")
		for _, layer := range onTop {
			h.Run(documented(t, "BOOT.md", layer.heading, layer.words...))
			if layer.dir != "" {
				h.Run("echo first >" + layer.dir + "/first")
			}
		}
		checkTop(t, h, "after it was set up")
		h.Run(`
for name in swap lvm one two crypt tree; do
	kill -9 $(systemctl show -P MainPID ublk-remap@$name)
done
udevadm trigger --subsystem-match=block --sysname-match='ublkb*'
for name in swap lvm one two crypt tree; do
	while ! systemctl -q is-active ublk-remap@$name; do sleep 0.2; done
done
udevadm settle
for dir in /volume /raid /secret /tree; do
	echo second >$dir/second
	sync $dir/second
done`)
		checkTop(t, h, "after all servers had died")
		h.Reboot()
		checkTop(t, h, "after a reboot")
		h.Run("for dir in /volume /raid /secret /tree; do test $(cat $dir/second) = second; done")
		h.PowerCut()
		h.Boot()
		checkTop(t, h, "after a power cut")
		// The next boot leaves the disks as this one does.
		h.Run(`
systemctl disable ublk-remap@swap ublk-remap@lvm ublk-remap@one ublk-remap@two ublk-remap@crypt \
	ublk-remap@tree
sed -i '/ublk-remap\|volume\|raid\|secret\|tree/d' /etc/fstab
sed -i /secret/d /etc/crypttab
for dir in /volume /raid /secret /tree; do echo third >$dir/third; done`)
		h.PowerOff()
		h.Boot()
		cleanTop(t, h)
	})
}

func checkTop(t *testing.T, h *system.Host, when string) {
	t.Helper()
	if out, code := h.Try("set -e\n" + there); code != 0 {
		t.Fatalf("%s: exit code %d: %s\n%s", when, code, out, h.Run(`
findmnt; swapon --show; cat /proc/mdstat; lsblk; systemctl --failed; systemctl list-jobs
ls -l /dev/disk/*; journalctl -b --no-pager | tail -100`))
	}
}

// cleanTop looks at the disks after their host was switched off with all of it in use.
func cleanTop(t *testing.T, h *system.Host) {
	t.Helper()
	for i := range 6 {
		disk := fmt.Sprintf("/dev/ubd%c", 'c'+i)
		h.Run("ublk-remap metadata check " + disk)
		endedInOrder(t, h.Run("ublk-remap metadata dump --json "+disk))
	}
	out := h.Run(`
for name in swap lvm one two crypt tree; do
	systemctl start ublk-remap@$name
done
udevadm settle
for name in one two; do
	mdadm --examine /dev/disk/by-id/ublk-remap-$name | grep '^ *State :'
done
vgchange -q -ay group
cryptsetup open --key-file /etc/crypt.key /dev/disk/by-id/ublk-remap-crypt secret
mdadm --detail /dev/md/raid >/dev/null || mdadm --assemble --scan
for device in /dev/group/volume /dev/md/raid /dev/mapper/secret; do
	dumpe2fs -h $device 2>/dev/null | grep features:
	fsck.ext4 -fn $device
	mount -o ro $device /mnt
	cat /mnt/third
	umount /mnt
done
btrfs check -p /dev/disk/by-label/tree 2>&1
mount -o ro /dev/disk/by-label/tree /mnt
cat /mnt/third
umount /mnt`)
	if strings.Contains(out, "needs_recovery") || !strings.Contains(out, "no error found") ||
		strings.Count(out, "State : clean") != 2 || strings.Count(out, "third") != 4 {
		t.Errorf("what was on the devices is not clean:\n%s", out)
	}
}

// Sets on MD RAID and dm-crypt are started at boot, as soon as what they lie on is assembled, and
// end in order. One that was stopped is not started by a change of the device below it.
func TestOnLayers(t *testing.T) {
	long(t)
	o := withLayers(t)
	o.Disks = []int64{128 << 20, 128 << 20, 128 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, documented(t, "BOOT.md", "On MD RAID, dm-crypt or LVM", "/dev/sdX", "/dev/ubdc",
			"/dev/sdY", "/dev/ubdd", "/dev/sdZ", "/dev/ubde")+`
for name in on-md on-crypt; do
	mkfs.ext4 -q /dev/disk/by-id/ublk-remap-$name
	mkdir /$name
	echo "/dev/disk/by-id/ublk-remap-$name /$name ext4 defaults 0 2" >>/etc/fstab
	systemctl daemon-reload
	mount /$name
	echo first >/$name/first
done`)
		const there = `
for name in on-md on-crypt; do
	test "$(cat /$name/first)" = first
	systemctl is-active ublk-remap@$name
done
test -z "$(systemctl --failed --no-legend)"`
		h.Reboot()
		h.Run(there)
		h.PowerCut()
		h.Boot()
		h.Run(there + `
for name in on-md on-crypt; do
	umount /$name
	systemctl stop ublk-remap@$name
done
udevadm trigger --settle --action=change /dev/md127 /dev/mapper/below
sleep 1
test "$(systemctl is-active ublk-remap@on-md ublk-remap@on-crypt | sort -u)" = inactive
systemctl start ublk-remap@on-md ublk-remap@on-crypt
mount -a`)
		h.PowerOff()
		h.Boot()
		h.Run(there + `
umount /on-md /on-crypt
for name in on-md on-crypt; do
	fsck.ext4 -fn /dev/disk/by-id/ublk-remap-$name
	systemctl stop ublk-remap@$name
done
ublk-remap metadata check /dev/md127
ublk-remap metadata check /dev/mapper/below`)
	})
}
