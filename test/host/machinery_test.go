package host

import (
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// onEach runs a scenario on a host of each suite; with -short of the first only.
func onEach(t *testing.T, o system.Options, scenario func(t *testing.T, h *system.Host)) {
	for i, suite := range system.Suites {
		t.Run(suite, func(t *testing.T) {
			if testing.Short() && i > 0 {
				t.Skip("left out by -short")
			}
			o.Suite = suite
			scenario(t, system.New(t, o))
		})
	}
}

// A system boots, keeps what was synced over a power cut and what was
// written over a reboot, and forgets what it had in memory.
func TestMachinery(t *testing.T) {
	long(t)
	onEach(t, system.Options{Disks: []int64{64 << 20}}, func(t *testing.T, h *system.Host) {
		h.Boot()
		if out, code := h.Try("echo out; echo err >&2; exit 7"); out != "out\nerr" || code != 7 {
			t.Errorf("%q, %d", out, code)
		}
		// Each is longer than what the guest's terminal holds.
		for range 2 {
			if out := h.Run(strings.Repeat("x=$((x + 1))\n", 1000) + "echo $x"); out != "1000" {
				t.Errorf("a long script: %q", out)
			}
		}
		if state := h.Run("systemctl is-system-running"); state != "running" {
			t.Errorf("%s\n%s", state, h.Run("systemctl --failed"))
		}
		h.Run(`
mkfs.ext4 -q /dev/ubdc
echo '/dev/ubdc /mnt ext4 defaults 0 2' >>/etc/fstab
systemctl daemon-reload
mount /mnt
echo synced >/mnt/synced
sync
echo memory >/mnt/memory`)
		h.PowerCut()
		h.Boot()
		if got := h.Run("ls -I lost+found /mnt; cat /mnt/synced"); got != "synced\nsynced" {
			t.Errorf("after a power cut: %q", got)
		}
		h.Run("echo written >/mnt/written")
		h.Reboot()
		h.Run("test $(cat /mnt/written) = written")
		h.PowerOff()
		h.Boot()
		h.Run("umount /mnt; fsck.ext4 -fn /dev/ubdc")
	})
}
