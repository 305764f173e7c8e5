package host

import (
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// scrapeScript has the function has, which says whether a scrape has a line. A minimal system has
// no curl, but bash, which can connect.
const scrapeScript = `
has() {
	bash -c '
exec 3<>/dev/tcp/127.0.0.1/9947 || exit
printf "GET /metrics HTTP/1.0\r\n\r\n" >&3
timeout 20 cat <&3' >/run/scrape
	grep -q "$1" /run/scrape
}
`

// The unit of the monitor, as confined as it is: it sees the devices, whether their servers live or
// not, survives an upgrade of the package, and goes with it.
func TestMonitorUnit(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Payload["newer.deb"] = deb(t, "0.0.2")
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, "/dev/disk/by-id/ublk-remap-data")
		run := func(script string) string { return h.Run(scrapeScript + script) }
		await := func(pattern string) {
			h.Eventually(30*time.Second, scrapeScript+"has '"+pattern+"'")
		}
		run(`
! systemctl -q is-active ublk-remap-monitor || exit 1
systemctl enable --now ublk-remap-monitor
has '^ublk_remap_build_info' # at once: it has been started when it listens`)
		await(`^ublk_remap_server_up{set="data"} 1`)
		await(`^ublk_remap_monitor_success 1`)
		run(`
test "$(readlink /proc/$(systemctl show -P MainPID ublk-remap-monitor)/exe)" = \
	/usr/libexec/ublk-remap/ublk-remap-monitor
echo second >/data/second
sync
has '^ublk_remap_latency_timed_one_in{set="data"} [1-9]'
# It listens on this host alone.
! grep -q ' 00000000:26DB ' /proc/net/tcp || exit 1
grep -q ' 0100007F:26DB ' /proc/net/tcp
# No file of the system or of a user can be written to. TestAlertsUnit knows what can.
pid=$(systemctl show -P MainPID ublk-remap-monitor)
nsenter -t $pid -m sh -c '
	for f in /etc/x /usr/x /boot/x /root/x; do ! touch $f 2>/dev/null || exit 1; done'
systemd-analyze security --no-pager ublk-remap-monitor | tail -1
systemd-analyze security --no-pager --threshold=50 ublk-remap-monitor >/dev/null`)
		// A server that stays dead, as far as systemd goes.
		run(`
mkdir -p /run/systemd/system/ublk-remap@data.service.d
printf '[Service]\nRestart=no\n' >/run/systemd/system/ublk-remap@data.service.d/no.conf
systemctl daemon-reload
kill -9 "$(systemctl show -P MainPID ublk-remap@data)"`)
		await(`^ublk_remap_device_state{set="data",state="failed"} 1`)
		run(`
has '^ublk_remap_last_answer_timestamp_seconds{set="data"} [1-9]'
systemctl reset-failed ublk-remap@data
systemctl start ublk-remap@data`)
		await(`^ublk_remap_server_took_over{set="data"} 1`)
		// The textfile is what node_exporter reads.
		run(`
mkdir /root/textfile
ublk-remap monitor --textfile /root/textfile
grep -q '^ublk_remap_server_up{set="data"} 1' /root/textfile/ublk_remap.prom
test "$(ls /root/textfile)" = ublk_remap.prom`)
		// The version that is installed is the one that runs.
		await(`^ublk_remap_build_info{version="0.0.1"} 1`)
		run("dpkg -i /payload/newer.deb")
		await(`^ublk_remap_build_info{version="0.0.2"} 1`)
		run(`
umount /data
systemctl disable --now ublk-remap@data
dpkg -r ublk-remap
! systemctl -q is-active ublk-remap-monitor || exit 1
test ! -e /usr/libexec/ublk-remap`)
	})
}
