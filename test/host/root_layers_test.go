package host

import (
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// rootLayers is what a root file system lies on, above or below of sets. The sets are on /dev/ubdd
// and the disks after it.
type rootLayers struct {
	name string
	// make sets it up, with sets called system, or one and two. The root file system is made on the
	// device that is called root in the end.
	make, root string
	// below is what the kernel says that is on, sorted.
	below string
	// sets is what the initramfs starts: names and disks.
	sets string
	// units serve the sets.
	units string
}

// withLayers is a host that has what is above and below of sets. One root has all of it, because
// making one takes minutes.
func withLayers(t *testing.T) system.Options {
	o := withPackage(t)
	o.Packages = []string{"initramfs-tools", "lvm2", "mdadm", "cryptsetup-initramfs"}
	o.PackagesOf = map[string][]string{"trixie": {"systemd-cryptsetup"}}
	return o
}

// key makes a key file that the initramfs gets, too.
const key = `
mkdir -m 700 -p /etc/keys
head -c 64 /dev/urandom >/etc/keys/root.key
echo 'KEYFILE_PATTERN=/etc/keys/*.key' >>/etc/cryptsetup-initramfs/conf-hook
echo UMASK=0077 >>/etc/initramfs-tools/initramfs.conf
luks() {
	cryptsetup luksFormat -q --pbkdf pbkdf2 --key-file /etc/keys/root.key "$1"
	cryptsetup open --key-file /etc/keys/root.key "$1" "$2"
}
`

const oneSet = `
ublk-remap create --name system /dev/ubdd
systemctl enable --now ublk-remap@system
`

var rootsOnLayers = []rootLayers{
	{"lvm", oneSet + `
printf 'label: gpt\n-\n' | sfdisk -q /dev/ublkb0
udevadm settle
pvcreate -q /dev/ublkb0p1
vgcreate -q vg /dev/ublkb0p1
lvcreate -q -n root -l 100%FREE vg`,
		"/dev/mapper/vg-root", "dm-0 ublkb0 ublkb0p1", "system /dev/ubdd", "system"},
	{"crypt", oneSet + key + `
luks /dev/disk/by-id/ublk-remap-system root
echo 'root /dev/disk/by-id/ublk-remap-system /etc/keys/root.key luks,initramfs' >>/etc/crypttab`,
		"/dev/mapper/root", "dm-0 ublkb0", "system /dev/ubdd", "system"},
	{"md", `
ublk-remap create --name one /dev/ubdd
ublk-remap create --name two /dev/ubde
systemctl enable --now ublk-remap@one ublk-remap@two
mdadm --create /dev/md/root --run --level=1 --metadata=1.2 --raid-devices=2 \
	/dev/disk/by-id/ublk-remap-one /dev/disk/by-id/ublk-remap-two
mdadm --detail --scan >>/etc/mdadm/mdadm.conf`,
		"/dev/md/root", "md127 ublkb0 ublkb1", "one /dev/ubdd two /dev/ubde", "one two"},
	{"on-md", `
mdadm --create /dev/md/below --run --level=1 --metadata=1.2 --raid-devices=2 /dev/ubdd /dev/ubde
mdadm --detail --scan >>/etc/mdadm/mdadm.conf
ublk-remap create --name system /dev/md127
systemctl enable --now ublk-remap@system`,
		"/dev/ublkb0", "ublkb0", "system /dev/md127", "system"},
	{"on-crypt", key + `
luks /dev/ubdd below
echo "below UUID=$(blkid -s UUID -o value /dev/ubdd) /etc/keys/root.key luks,initramfs" \
	>>/etc/crypttab
ublk-remap create --name system /dev/mapper/below
systemctl enable --now ublk-remap@system`,
		"/dev/ublkb0", "ublkb0", "system /dev/mapper/below", "system"},
}

// A root file system with LVM, dm-crypt or MD RAID above or below of sets: a system is copied
// there, and its initramfs is made in it as an installer does.
func TestRootOnLayers(t *testing.T) {
	long(t)
	for _, l := range rootsOnLayers {
		t.Run(l.name, func(t *testing.T) {
			o := withLayers(t)
			o.Disks = []int64{256 << 20, 1200 << 20, 1200 << 20}
			o.MemoryMiB = 768
			onEach(t, o, func(t *testing.T, h *system.Host) { l.boots(h) })
		})
	}
}

func (l *rootLayers) boots(h *system.Host) {
	prepared(h, l.make)
	h.Run(`
mkfs.ext4 -q ` + l.root + `
mount ` + l.root + ` /mnt
mkfs.ext4 -q -L boot /dev/ubdc
mkdir /mnt/boot
mount /dev/ubdc /mnt/boot
cp -ax /. /mnt
for dir in dev proc sys run; do mount --bind /$dir /mnt/$dir; done
zcat /proc/config.gz >/mnt/boot/config-$(uname -r)
printf 'UUID=%s / ext4 defaults 0 1\nLABEL=boot /boot ext4 defaults 0 2\n' \
	$(blkid -s UUID -o value ` + l.root + `) >/mnt/etc/fstab
chroot /mnt update-initramfs -c -k $(uname -r)
sets=$(chroot /mnt /usr/lib/ublk-remap/initramfs-sets | cut -d ' ' -f 2-)
test "$(echo $sets)" = '` + l.sets + `' || { echo "sets: $sets"; exit 1; }`)
	root := h.Run("blkid -s UUID -o value " + l.root)
	h.Run("umount /mnt/dev /mnt/proc /mnt/sys /mnt/run /mnt/boot /mnt")
	h.BootWith(&system.Loader{Initrd: "/initrd.img-" + h.Run("uname -r"),
		Append: "ro root=UUID=" + root})
	for range 2 {
		h.Reboot()
		// udev starts the units, which takes a moment longer than the boot.
		h.Eventually(time.Minute, `
set -ex
test "$(findmnt -no UUID /)" = `+root+`
root=$(readlink -f $(findmnt -no SOURCE /))
test "$(echo $(lsblk -nlso KNAME $root | grep -v ubd | sort -u))" = '`+l.below+`'
for name in `+l.units+`; do
	systemctl is-active ublk-remap@$name
	test "$(head -c 1 /proc/$(systemctl show -P MainPID ublk-remap@$name)/cmdline)" = @
done
test -z "$(systemctl --failed --no-legend)"`)
		h.Run("echo again >>/root/times; sync")
	}
	h.Run("test $(wc -l </root/times) = 2")
}
