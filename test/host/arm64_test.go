package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"ublkremap/test/vmtest/kernel"
)

// emulated has qemu-aarch64-static run the programs of a Debian for arm64, in the namespaces of
// this script only (Linux 6.7). It makes such a system, once, and unpacks it: TAR DIR.
const emulated = `
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
# An ELF program of 64 bits for AArch64. (O: by the open file; C: with its credentials; F: by the
# emulator of this mount namespace.)
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s\n' ":arm64:M::$magic:$mask:$QEMU:OCF" \
	>/proc/sys/fs/binfmt_misc/register
if [ ! -e "$TAR" ]; then
	mkdir -p "$(dirname "$TAR")"
	mmdebstrap --quiet --skip=check/qemu --mode=root --architectures=arm64 --variant=minbase \
		--format=tar --include=kmod,udev --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' trixie "$TAR.part" "$MIRROR"
	mv "$TAR.part" "$TAR"
fi
tar -xf "$TAR" -C "$ROOT" --exclude='./dev/*'
mount --rbind /proc "$ROOT/proc"
mount -t tmpfs none "$ROOT/run"
touch "$ROOT/dev/null"
mount --bind /dev/null "$ROOT/dev/null"
cp "$DEB" "$ROOT/root/ublk-remap.deb"
exec chroot "$ROOT" /bin/sh -eux -c "$SCRIPT"
`

// The package for arm64 is installed in a Debian for arm64, whose programs are emulated on this
// machine's kernel, and removed. No device is served: that would be one of this machine.
func TestARM64Package(t *testing.T) {
	r := needRelease(t)
	if os.Geteuid() != 0 {
		t.Skip("only root maps the users of another system")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := kernel.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	mirror := os.Getenv(kernel.MirrorEnv)
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	root := t.TempDir()
	const script = `
test "$(dpkg --print-architecture)" = arm64
dpkg -i /root/ublk-remap.deb
test "$(dpkg-query -W -f '${db:Status-Status} ${Architecture}' ublk-remap)" = 'installed arm64'
ublk-remap version | grep linux/arm64
test -f /usr/lib/systemd/system/ublk-remap@.service
test -f /usr/lib/udev/rules.d/59-ublk-remap.rules
truncate -s 64M /root/disk
ublk-remap create --name arm /root/disk
ublk-remap metadata check /root/disk
echo 'queues = 2' >/etc/ublk-remap/arm.toml
ublk-remap config check
dpkg -r ublk-remap
test ! -e /usr/sbin/ublk-remap
test -e /etc/ublk-remap/arm.toml
dpkg -P ublk-remap
test ! -e /etc/ublk-remap
test -z "$(find / -xdev -name '*ublk-remap*' -not -path '/root/*')"`
	cmd := exec.Command("unshare", "--mount", "sh", "-eu", "-c", emulated)
	cmd.Env = append(os.Environ(), "QEMU="+qemu, "ROOT="+root, "MIRROR="+mirror,
		"TAR="+filepath.Join(cache, "roots", "trixie-arm64-udev", "root.tar"), "SCRIPT="+script,
		"DEB="+r.file(t, "arm64.deb"), "LC_ALL=C.UTF-8",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	users := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: users, GidMappings: users, GidMappingsEnableSetgroups: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
