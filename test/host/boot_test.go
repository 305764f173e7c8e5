package host

import (
	"encoding/json"
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

const (
	byID   = "/dev/disk/by-id/ublk-remap-data"
	byUUID = "UUID=11111111-2222-3333-4444-555555555555"
	// byPage is what docs/INSTALL.md says.
	byPage = ""
)

// From the package to a file system that is there after each boot: an orderly one, one
// after a power cut, and one after switching it off.
func TestBoot(t *testing.T) {
	for name, fstab := range map[string]string{"by-id": byID, "uuid": byUUID, "page": byPage} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && fstab != byID {
				t.Skip("left out by -short")
			}
			onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
				if fstab == byPage {
					prepared(h, documented(t, "INSTALL.md", "A first device", "/dev/sdX",
						"/dev/ubdc")+"echo first >/data/first")
				} else {
					installed(t, h, fstab)
					links(t, h)
				}
				h.Reboot()
				mounted(t, h, "after a reboot")
				h.Run("echo second >/data/second; sync /data/second")
				h.PowerCut()
				h.Boot()
				mounted(t, h, "after a power cut")
				h.Run("test $(cat /data/second) = second")
				// The next boot leaves the disk as this one does.
				h.Run("systemctl disable ublk-remap@data; sed -i '/ \\/data /d' /etc/fstab")
				h.Run("echo third >/data/third")
				h.PowerOff()
				offline(t, h)
			})
		})
	}
}

// links looks at what udev has made of the disk and of the device.
func links(t *testing.T, h *system.Host) {
	t.Helper()
	h.Run(`
for link in by-id/ublk-remap-data by-label/label by-uuid/11111111-2222-3333-4444-555555555555 \
	by-id/ublk-remap-$(ublk-remap status --json data | sed -n 's/.*"uuid": "\(.*\)".*/\1/p'); do
	test "$(readlink -f /dev/disk/$link)" = /dev/ublkb0 || { echo "$link"; exit 1; }
done
udevadm trigger --settle /dev/ubdc
udevadm info /dev/ubdc | grep -qx 'E: SYSTEMD_READY=0'
udevadm info /dev/ubdc | grep -qx 'E: UDISKS_IGNORE=1'`)
}

// mounted looks whether the device came up and its file system is mounted, with what was
// in it, and nothing failed.
func mounted(t *testing.T, h *system.Host, when string) {
	t.Helper()
	out, code := h.Try(`
set -e
test "$(findmnt -no SOURCE /data)" = /dev/ublkb0
test "$(cat /data/first)" = first
systemctl is-active ublk-remap@data >/dev/null
test -z "$(systemctl --failed --no-legend)"`)
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s\n%s", when, code, out, h.Run(`
findmnt; systemctl --failed; ls -l /dev/disk/*; journalctl -b --no-pager | tail -60`))
	}
}

// offline looks at a disk after its host was switched off with the file system mounted: that
// was unmounted, and then the server ended in order.
func offline(t *testing.T, h *system.Host) {
	t.Helper()
	h.Boot()
	unmounted(t, h, "data", "/dev/ubdc")
}

// unmounted is offline on a host that is on, for one set.
func unmounted(t *testing.T, h *system.Host, name, disk string) {
	t.Helper()
	h.Run("ublk-remap metadata check " + disk)
	endedInOrder(t, h.Run("ublk-remap metadata dump --json "+disk))
	out := h.Run(`
ublk-remap start --id 5 ` + disk + `
dumpe2fs -h /dev/ublkb5 2>/dev/null
fsck.ext4 -fn /dev/ublkb5
mount -o ro /dev/ublkb5 /mnt
cat /mnt/third
umount /mnt
ublk-remap stop ` + name)
	if strings.Contains(out, "needs_recovery") || !strings.Contains(out, "third") {
		t.Errorf("the file system was not unmounted:\n%s", out)
	}
}

// endedInOrder looks into a dump for the last checkpoint, which a server writes when it ends
// in order: it covers what was written since the last start.
func endedInOrder(t *testing.T, text string) {
	t.Helper()
	var dump struct {
		Superblocks []struct{ Superblock struct{ Epoch int } }
		Mirrors     []struct {
			Checkpoints []struct {
				Used   bool
				Covers struct{ Epoch int }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if len(dump.Superblocks) == 0 || len(dump.Mirrors) != 2 {
		t.Fatalf("a dump of another form: %s", text)
	}
	epoch := dump.Superblocks[0].Superblock.Epoch
	for i, m := range dump.Mirrors {
		for _, c := range m.Checkpoints {
			if c.Used && c.Covers.Epoch != epoch {
				t.Errorf("mirror %d: the last start has number %d, the checkpoint is of %d",
					i, epoch, c.Covers.Epoch)
			}
		}
	}
}
