package host

import (
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// debianKernel is a kernel of Debian's, and the release that it is used on.
type debianKernel struct{ suite, series, release string }

var debianKernels = []debianKernel{{"bookworm", "6.12", "deb12"}, {"trixie", "7.3", "deb13"}}

// patient is an option in fstab for machines that are slower than any that systemd has in mind: it
// gives up a file system whose device is not there after 90 seconds.
const patient = "x-systemd.device-timeout=1h"

// options are those of a host that can have this kernel. /boot is to be on its first disk.
func (k debianKernel) options(t *testing.T) system.Options {
	t.Helper()
	o := withPackage(t)
	o.Suite, o.OwnRoot, o.MemoryMiB = k.suite, true, 1024
	o.Disks = []int64{512 << 20}
	o.Packages = []string{"initramfs-tools", "kexec-tools", "linux-base"}
	for _, deb := range system.KernelPackages(t, k.series, k.release) {
		o.Payload["kernel-"+filepath.Base(deb)] = deb
	}
	return o
}

// kernelInstalled installs the kernel and returns its release.
func kernelInstalled(h *system.Host) string {
	return h.Run(`
{
	for base in /payload/kernel-linux-base_*.deb; do
		[ ! -e $base ] || dpkg -i $base
	done
	dpkg -i /payload/kernel-*.deb
} >/root/kernel.log 2>&1 || { cat /root/kernel.log; exit 1; }
ls /boot | sed -n 's/^vmlinuz-\(.*amd64\)$/\1/p'`)
}

// boot boots a host in QEMU that has the kernel and the package installed. The disks behind the
// first one are /dev/vdd, /dev/vde, ….
func (k debianKernel) boot(t *testing.T, o system.Options) *system.Host {
	t.Helper()
	h := system.New(t, o)
	prepared(h, `
mkfs.ext4 -q -L boot /dev/ubdc
mount /dev/ubdc /boot
printf 'UUID=%s / ext4 errors=remount-ro 0 1\nLABEL=boot /boot ext4 `+patient+` 0 2\n' \
	$(blkid -s UUID -o value /dev/ubda) >/etc/fstab`)
	release := kernelInstalled(h)
	root := h.Run("blkid -s UUID -o value /dev/ubda")
	h.PowerOff()
	h.BootWith(&system.Loader{Kernel: "/vmlinuz-" + release,
		Initrd: "/initrd.img-" + release, Append: "ro root=UUID=" + root})
	h.Boot()
	return h
}

// kexec starts the running kernel anew, by the commands of docs/BOOT.md.
func kexec(t *testing.T, h *system.Host) {
	t.Helper()
	load, found := strings.CutSuffix(documented(t, "BOOT.md", "kexec", "VERSION", "$(uname -r)"),
		"systemctl kexec\n")
	if !found {
		t.Fatal("docs/BOOT.md has other commands for kexec")
	}
	const id = "cat /proc/sys/kernel/random/boot_id"
	h.Run(load + "test $(cat /sys/kernel/kexec_loaded) = 1")
	old := h.Run(id)
	h.Kexec()
	if h.Run(id) == old {
		t.Fatal("the same kernel still runs")
	}
}

// kexec ends a system as a reboot does, and starts the next kernel in place of a reset: file
// systems are unmounted, also one that a program keeps in use to the end, and the servers stop in
// order. The next kernel starts them. User-mode Linux has no kexec, so this is QEMU.
func TestKexec(t *testing.T) {
	long(t)
	for _, k := range debianKernels {
		t.Run(k.suite, func(t *testing.T) {
			o := k.options(t)
			o.Disks = append(o.Disks, 128<<20, 128<<20)
			h := k.boot(t, o)
			h.Run(`
ublk-remap create --name data /dev/vdd
ublk-remap create --name busy /dev/vde
systemctl enable --now ublk-remap@data ublk-remap@busy
mkdir /data /busy
for name in data busy; do
	mkfs.ext4 -q /dev/disk/by-id/ublk-remap-$name
	echo "/dev/disk/by-id/ublk-remap-$name /$name ext4 ` + patient + ` 0 2" >>/etc/fstab
done
systemctl daemon-reload
mount /data
mount /busy
echo first >/data/first
echo first >/busy/first
cat >/etc/systemd/system/holder.service <<'END'
[Unit]
DefaultDependencies=no
IgnoreOnIsolate=yes
[Service]
ExecStart=/bin/sh -c 'cd /busy; while :; do sleep 1 & wait; done'
END
systemctl daemon-reload
systemctl start holder`)
			kexec(t, h)
			out := h.Run(`
for name in data busy; do
	findmnt -no SOURCE /$name
	test $(cat /$name/first) = first
	systemctl is-active ublk-remap@$name
	test -z "$(systemctl --failed --no-legend)"
done
dmesg | grep 'EXT4-fs (ublkb'`)
			if strings.Contains(out, "recover") ||
				strings.Count(out, "mounted filesystem") != 2 {
				t.Errorf("file systems were not unmounted:\n%s", out)
			}
			h.Run(`
systemctl start holder
systemctl disable ublk-remap@data ublk-remap@busy
sed -i '/by-id/d' /etc/fstab
echo third >/data/third
echo third >/busy/third`)
			kexec(t, h)
			for name, disk := range map[string]string{"data": "/dev/vdd", "busy": "/dev/vde"} {
				unmounted(t, h, name, disk)
			}
			if log := h.Run("journalctl -b -1 -u busy.mount --no-pager"); !strings.Contains(log,
				"target is busy") {
				t.Errorf("the file system was not in use to the end:\n%s", log)
			}
		})
	}
}
