package host

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// initramfs is a program that makes an initramfs.
type initramfs struct {
	name, suite string
	packages    []string
	// make makes one for the kernel that runs, in /boot/initrd.img-RELEASE.
	make string
}

var initramfses = []initramfs{
	{"bookworm", "bookworm", []string{"initramfs-tools"}, "update-initramfs -c -k $(uname -r)"},
	{"trixie", "trixie", []string{"initramfs-tools"}, "update-initramfs -c -k $(uname -r)"},
	{"bookworm-dracut", "bookworm", []string{"dracut"},
		"dracut -q --force /boot/initrd.img-$(uname -r) $(uname -r)"},
	{"trixie-dracut", "trixie", []string{"dracut", "linux-base"},
		"dracut -q --force /boot/initrd.img-$(uname -r) $(uname -r)"},
}

// The root disk of an installed system is put behind ublk-remap in place, as docs/BOOT.md
// walks through it, loses blocks below /usr, which heal, gets a new version of the program and
// a new initramfs, and is given back in the end.
func TestRoot(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{256 << 20}
	o.MemoryMiB = 768
	o.Payload["newer.deb"] = deb(t, "0.0.2")
	for _, i := range initramfses {
		t.Run(i.name, func(t *testing.T) {
			o.Suite, o.Packages = i.suite, i.packages
			h := system.New(t, o)
			rootPrepared(h, i)
			rootConverted(t, h)
			h.Boot()
			onSet(t, h, "0.0.1")
			rootHeals(t, h)
			rootUpgraded(t, h)
			rootServerKilled(t, h)
			rootCut(t, h)
			rootReleased(t, h)
		})
	}
}

// The same system on the kernels that Debian has, in QEMU: installed on the set as any other
// kernel, with the initramfs that its package has made. Blocks below /usr are bad before it boots.
func TestRootKernels(t *testing.T) {
	long(t)
	for _, k := range debianKernels {
		t.Run(k.suite, func(t *testing.T) {
			h := system.New(t, k.options(t))
			rootPrepared(h, initramfses[0])
			rootConverted(t, h)
			h.Boot()
			onSet(t, h, "0.0.1")
			release := kernelInstalled(h)
			h.SetBad(badSectors(t, h))
			root := h.Run("findmnt -no UUID /")
			h.PowerOff()
			h.BootWith(&system.Loader{Kernel: "/vmlinuz-" + release,
				Initrd: "/initrd.img-" + release, Append: "ro root=UUID=" + root})
			h.Boot()
			if got := h.Run("uname -r"); got != release {
				t.Fatalf("kernel %s, want %s", got, release)
			}
			onSet(t, h, "0.0.1")
			rewritten(t, h)
			h.Reboot()
			onSet(t, h, "0.0.1")
			h.Run("echo synced >/root/synced; sync; echo lost >/root/lost")
			kexec(t, h)
			onSet(t, h, "0.0.1")
			h.Run("test $(cat /root/synced) = synced; cmp /usr/bin/busctl /root/whole")
			h.PowerOff()
			rootChecked(t, h)
		})
	}
}

// rootPrepared installs the package on a system that runs from its plain disk, and makes an
// initramfs that starts the set which does not exist yet. It returns what boots it.
func rootPrepared(h *system.Host, i initramfs) system.Loader {
	h.Boot()
	h.Run(`
mkfs.ext4 -q -L boot /dev/ubdc
mount /dev/ubdc /boot
printf 'UUID=%s / ext4 errors=remount-ro 0 1\nLABEL=boot /boot ext4 ` + patient + ` 0 2\n' \
	$(blkid -s UUID -o value /dev/ubda) >/etc/fstab
dpkg -i /payload/ublk-remap.deb
systemctl enable ublk-remap@system
mkdir -p /etc/ublk-remap
echo system >/etc/ublk-remap/initramfs
# What the package of a kernel leaves there.
zcat /proc/config.gz >/boot/config-$(uname -r)
: >/boot/vmlinuz-$(uname -r)
` + i.make)
	loader := system.Loader{Initrd: "/initrd.img-" + h.Run("uname -r"),
		Append: "ro root=UUID=" + h.Run("blkid -s UUID -o value /dev/ubda")}
	h.BootWith(&loader)
	// The set does not exist yet, and holds nothing up.
	h.Reboot()
	h.Run("test $(findmnt -no SOURCE /) = /dev/ubda")
	h.PowerOff()
	return loader
}

// rootConverted does what is done in a rescue system.
func rootConverted(t *testing.T, h *system.Host) {
	t.Helper()
	h.BootRescue(true)
	h.Boot()
	disk := h.RootDisk()
	h.Run(`
mount -o ro ` + disk + ` /mnt
cp /mnt/usr/sbin/ublk-remap /root/
umount /mnt
e2fsck -fp ` + disk + ` || test $? = 1`)
	out, code := h.Try("/root/ublk-remap create --in-place --name system --yes " + disk)
	_, resize, ok := strings.Cut(out, "&& resize2fs "+disk+" ")
	if code != 3 || !ok {
		t.Fatalf("exit code %d: %s", code, out)
	}
	size, _, _ := strings.Cut(resize, "K")
	h.Run(`
resize2fs ` + disk + " " + size + `K
/root/ublk-remap create --in-place --name system --yes ` + disk + `
if blkid -p ` + disk + ` | grep -q ' UUID='; then exit 1; fi`)
	h.PowerOff()
	h.BootRescue(false)
}

// onSet looks whether the root file system is on the set's device, with a server that systemd
// supervises, and leaves alone when it shuts down. udev starts the unit. For a moment before that
// systemd has nothing left to do, on a busy machine for long.
func onSet(t *testing.T, h *system.Host, version string) {
	t.Helper()
	out, code := h.Within(time.Minute, `
set -ex
test $(findmnt -no SOURCE /) = /dev/ublkb0
test "$(readlink -f /dev/disk/by-uuid/$(findmnt -no UUID /))" = /dev/ublkb0
test "$(readlink -f /dev/disk/by-id/ublk-remap-system)" = /dev/ublkb0
test -z "$(systemctl --failed --no-legend)"
systemctl is-active ublk-remap@system
pid=$(systemctl show -P MainPID ublk-remap@system)
grep -q "\"pid\": $pid," /run/ublk-remap/system.json
grep -q '"version": "`+version+`"' /run/ublk-remap/system.json
grep -q '"backing": "`+h.RootDisk()+`"' /run/ublk-remap/system.json
test "$(head -c 1 /proc/$pid/cmdline)" = @
# Nothing of it is on what it serves.
case "$(stat -f -L -c %T /proc/$pid/exe)" in tmpfs | ramfs) ;; *) exit 1 ;; esac
`)
	if code != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, out, h.Run(`
findmnt; systemctl --failed; ls -l /dev/disk/*; cat /run/ublk-remap/*.json || :
for pid in $(pgrep ublk-remap); do
	tr '\0' ' ' </proc/$pid/cmdline
	ls -l /proc/$pid/exe
done
systemctl status ublk-remap@system || :; journalctl -b --no-pager | tail -60`))
	}
	// The server and its guard. That of an earlier server ends.
	h.Eventually(30*time.Second, "test $(pgrep -c ublk-remap) = 2")
}

// badSectors returns sectors of the root disk, one in each of three blocks of a program
// below /usr, and keeps a copy of the program.
func badSectors(t *testing.T, h *system.Host) (sectors []int64) {
	t.Helper()
	out := h.Run(`
cp /usr/bin/busctl /root/whole
sync
size=$(stat -f -c %S /)
for n in 3 4 9; do
	block=$(debugfs -R "bmap /usr/bin/busctl $n" /dev/ublkb0 2>/dev/null)
	echo $((block * size / 512))
done`)
	for _, word := range strings.Fields(out) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || n == 0 {
			t.Fatalf("sectors %q", out)
		}
		sectors = append(sectors, n)
	}
	return sectors
}

// rootHeals has blocks of a program below /usr go bad. The program, written again, is whole.
func rootHeals(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run("mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug")
	for _, sector := range badSectors(t, h) {
		for _, op := range []string{"READ", "WRITE"} {
			h.Run(fmt.Sprintf("echo add,op=%s,status=MEDIUM,start=%d,nr_sectors=1 "+
				">/sys/kernel/debug/block/ubda/error_injection", op, sector))
		}
	}
	rewritten(t, h)
}

// rewritten looks whether a program with three bad blocks cannot be read, and can be once it was
// written again.
func rewritten(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(`
echo 3 >/proc/sys/vm/drop_caches
if cat /usr/bin/busctl >/dev/null; then exit 1; fi
dd if=/root/whole of=/usr/bin/busctl bs=4096 conv=notrunc,fsync status=none
echo 3 >/proc/sys/vm/drop_caches
cmp /usr/bin/busctl /root/whole`)
	if got := h.Run("ublk-remap status --json system | sed -n 's/.*\"remaps\": //p'"); got != "3," {
		t.Errorf("remaps: %s", got)
	}
}

// rootUpgraded installs a newer version, which the running system gets, and the initramfs.
func rootUpgraded(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(`
sets=/usr/lib/ublk-remap/initramfs-sets
test "$($sets | cut -d ' ' -f 2-)" = 'system /dev/ubda'
printf 'other # a comment\nsystem\n' >/etc/ublk-remap/initramfs
test "$($sets | wc -l) $($sets | tail -n 1)" = '2 other'
echo off >/etc/ublk-remap/initramfs
test -z "$($sets)"
# The hooks see what / is on.
rm /etc/ublk-remap/initramfs
dpkg -i /payload/newer.deb`)
	onSet(t, h, "0.0.2")
	h.Reboot()
	onSet(t, h, "0.0.2")
	h.Run("cmp /usr/bin/busctl /root/whole")
}

// rootServerKilled kills the server. systemd starts it again. If systemd does not, the guard does,
// which needs nothing from the disk for that.
func rootServerKilled(t *testing.T, h *system.Host) {
	t.Helper()
	pid := "systemctl show -P MainPID ublk-remap@system"
	old := h.Run(pid)
	h.Run("kill -9 " + old)
	h.Eventually(30*time.Second, `
pid=$(`+pid+`)
test "$pid" != 0 && test "$pid" != `+old+` && systemctl -q is-active ublk-remap@system`)
	onSet(t, h, "0.0.2")
	old = h.Run(`
mkdir -p /run/systemd/system/ublk-remap@system.service.d
printf '[Service]\nRestart=no\n' >/run/systemd/system/ublk-remap@system.service.d/no.conf
systemctl daemon-reload
` + pid)
	h.Run("sync; echo 3 >/proc/sys/vm/drop_caches; kill -9 " + old)
	h.Eventually(30*time.Second, "! grep -q '\"pid\": "+old+",' /run/ublk-remap/system.json")
	h.Run(`
echo again >/root/again
sync
echo 3 >/proc/sys/vm/drop_caches
test $(cat /root/again) = again
test "$(systemctl is-active ublk-remap@system)" = failed
systemctl start ublk-remap@system`)
	onSet(t, h, "0.0.2")
}

// rootCut cuts the power, then turns the system off in order.
func rootCut(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run("echo synced >/root/synced; sync; echo lost >/root/lost")
	h.PowerCut()
	h.Boot()
	onSet(t, h, "0.0.2")
	h.Run("test $(cat /root/synced) = synced")
	h.PowerOff()
	rootChecked(t, h)
}

// rootChecked looks at the disk of a system that was turned off, in the rescue system.
func rootChecked(t *testing.T, h *system.Host) {
	t.Helper()
	h.BootRescue(true)
	h.Boot()
	out := h.Run(`
dpkg -i /payload/ublk-remap.deb >/dev/null
ublk-remap metadata check ` + h.RootDisk() + `
ublk-remap start --id 5 system
dumpe2fs -h /dev/ublkb5 2>/dev/null
e2fsck -fn /dev/ublkb5
mount -o ro /dev/ublkb5 /mnt
cmp /mnt/usr/bin/busctl /mnt/root/whole
umount /mnt
ublk-remap stop system`)
	if strings.Contains(out, "needs_recovery") {
		t.Errorf("the root file system was not mounted read-only before the end:\n%s", out)
	}
}

// rootReleased gives the disk back, in the rescue system. The bad sectors are gone by then: it is
// another machine.
func rootReleased(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run("ublk-remap release --yes " + h.RootDisk())
	h.PowerOff()
	h.BootRescue(false)
	h.Boot()
	h.Run(`
test $(findmnt -no SOURCE /) = /dev/ubda
test -z "$(systemctl --failed --no-legend)"
cmp /usr/bin/busctl /root/whole`)
}
