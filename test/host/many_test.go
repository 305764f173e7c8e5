package host

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// manySets is how many sets the system of TestManyAtShutdown has: d0, d1, … With 100 on this one
// CPU, a boot took longer than the 90 seconds that systemd waits for a disk.
const manySets = 40

// A system has many sets. All are enabled, and each has a file system that fstab mounts. The system
// is rebooted and switched off: each file system is unmounted and then each server stopped, in
// order. The times are in the log, as those of systemctl and of the boots.
func TestManyAtShutdown(t *testing.T) {
	long(t)
	const size = 24 << 20
	o := withPackage(t)
	// User-mode Linux has few disks, so the sets are on partitions of one.
	o.Disks = []int64{(manySets + 1) * size}
	o.MemoryMiB = 6 << 10
	// One CPU starts all servers and checks all file systems.
	o.Patience = 10
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, fmt.Sprintf(`
(echo 'label: gpt'; for i in $(seq %d); do echo 'size=%dMiB'; done) | sfdisk -q /dev/ubdc
udevadm settle`, manySets, size>>20))
		const step = 10
		for i := 0; i < manySets; i += step {
			h.Run(fmt.Sprintf(`
units=
for i in $(seq %d %d); do
	ublk-remap create --name d$i --spare 1MiB /dev/ubdc$((i + 1))
	units="$units ublk-remap@d$i"
done
systemctl enable --now $units || {
	journalctl -b --no-pager -o short-monotonic -t ublk-remap -t systemd |
		grep ublk-remap | tail -n 40
	exit 1
}
for i in $(seq %[1]d %[2]d); do
	mkfs.ext4 -q /dev/disk/by-id/ublk-remap-d$i
	mkdir /d$i
	echo "/dev/disk/by-id/ublk-remap-d$i /d$i ext4 %[3]s 0 2" >>/etc/fstab
	mount /d$i
	head -c 1M /dev/urandom >/d$i/first
done
sha256sum /d*/first >/root/sums
sync /root/sums`, i, i+step-1, patient))
		}
		h.Run("systemctl daemon-reload")
		h.Reboot()
		manyMounted(t, h, 1)
		h.Run(`
for dir in /d[0-9]*; do
	head -c 1M /dev/urandom >$dir/second
done
sha256sum /d*/first /d*/second >/root/sums
sync /root/sums`)
		h.PowerOff()
		h.Boot()
		manyMounted(t, h, 2)
	})
}

// manyMounted looks at a system that has ended in order so many times: all servers were stopped in
// order each time, and all file systems had been unmounted. All are mounted again, with what was in
// them.
func manyMounted(t *testing.T, h *system.Host, ends int) {
	t.Helper()
	// udev starts the units, which takes a moment longer than the boot.
	h.Eventually(2*time.Minute, fmt.Sprintf(`
test "$(systemctl is-active 'ublk-remap@*' | grep -cx active)" = %d || {
	systemctl list-units --all 'ublk-remap@*' | grep -v running
	exit 1
}`, manySets))
	h.Run(fmt.Sprintf(`
test "$(findmnt -nlo SOURCE | grep -c ^/dev/ublkb)" = %d || { findmnt; exit 1; }
test -z "$(systemctl --failed --no-legend)" || { systemctl --failed; exit 1; }
sha256sum --quiet -c /root/sums
test $(wc -l </root/sums) = %d`, manySets, manySets*ends))
	out := h.Run(`journalctl -b -k --no-pager -o cat | grep 'EXT4-fs (ublkb'`)
	if strings.Contains(out, "recover") || strings.Contains(out, "error") ||
		strings.Count(out, "mounted filesystem") != manySets {
		t.Errorf("file systems were not unmounted:\n%s", out)
	}
	for i := range manySets {
		events := h.Run(fmt.Sprintf(`ublk-remap events --json d%d |
	sed -n 's/.*"what": *"\(start\|recovery\|stop\|leave\)".*/\1/p'`, i))
		want := strings.Repeat("start\nstop\n", ends) + "start"
		if events != want {
			t.Errorf("d%d: what happened is %q, want %q", i, strings.Fields(events),
				strings.Fields(want))
		}
	}
}
