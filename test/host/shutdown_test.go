package host

import (
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// A program that no unit stops uses a file system, so systemd cannot unmount it. systemd-shutdown
// unmounts it when it has ended all programs. The server is not among these programs: it stops in
// order after the unmount.
func TestShutdownBusy(t *testing.T) {
	long(t)
	onEach(t, withPackage(t), func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(`
# systemd knows this since version 255, and goes by the name of the process as well.
[ $(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/\1/p') -lt 255 ] ||
	test "$(systemctl show -P SurviveFinalKillSignal ublk-remap@data)" = yes
test "$(head -c 1 /proc/$(systemctl show -P MainPID ublk-remap@data)/cmdline)" = @
cat >/run/systemd/system/holder.service <<'END'
[Unit]
DefaultDependencies=no
IgnoreOnIsolate=yes
[Service]
ExecStart=/bin/sh -c 'cd /data; while :; do sleep 1 & wait; done'
END
systemctl daemon-reload
systemctl start holder
systemctl disable ublk-remap@data
sed -i '/ \/data /d' /etc/fstab
echo third >/data/third`)
		h.PowerOff()
		offline(t, h)
		if log := h.Run("journalctl -b -1 -u data.mount --no-pager"); !strings.Contains(log,
			"target is busy") {
			t.Errorf("the file system was not in use when the host was switched off:\n%s", log)
		}
	})
}
