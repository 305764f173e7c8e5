package host

import (
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// Alerts as they are on a host: the monitor's unit, confined as it is, sends mail by the sendmail
// of postfix (Debian 12) and of exim4 (Debian 13), tells the journal, whose catalog explains it,
// and runs hooks, of which those that somebody else could have written do not run.
func TestAlertsUnit(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.PackagesOf = map[string][]string{"bookworm": {"postfix"}, "trixie": {"exim4-daemon-light"}}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, "/dev/disk/by-id/ublk-remap-data")
		h.Run(`
systemctl restart postfix 2>/dev/null || systemctl restart exim4
cat >/etc/ublk-remap/monitor.conf <<'END'
mail-to = ["root"]
interval = "1s"
END
ublk-remap config check
cat >/etc/ublk-remap/events.d/10-note <<'END'
#!/bin/sh
echo "$UBLK_REMAP_ALERT $UBLK_REMAP_EVENT $UBLK_REMAP_SET" >>/var/lib/ublk-remap/noted
END
sed 's/noted/other/' /etc/ublk-remap/events.d/10-note >/etc/ublk-remap/events.d/20-other
chmod 755 /etc/ublk-remap/events.d/10-note
chmod 777 /etc/ublk-remap/events.d/20-other
systemctl enable --now ublk-remap-monitor`)
		mail := `{ cat /var/mail/root /var/mail/mail 2>/dev/null || true; }`
		// Somebody else could have written one hook: that is told, and the other ways work.
		h.Eventually(60*time.Second, "ublk-remap alerts list | grep 'no alert is there'")
		out, code := h.Try("ublk-remap alerts test")
		t.Log(out)
		if code != 1 {
			t.Errorf("exit code %d", code)
		}
		h.Run(`
chmod 755 /etc/ublk-remap/events.d/20-other
ublk-remap alerts test
grep -qx 'test raised .*' /var/lib/ublk-remap/noted`)
		h.Eventually(60*time.Second, mail+" | grep -q 'This is a test of the alerts of'")
		// A server that stays dead, as far as systemd goes.
		h.Run(`
rm /var/lib/ublk-remap/other
mkdir -p /run/systemd/system/ublk-remap@data.service.d
printf '[Service]\nRestart=no\n' >/run/systemd/system/ublk-remap@data.service.d/no.conf
systemctl daemon-reload
kill -9 "$(systemctl show -P MainPID ublk-remap@data)"`)
		h.Eventually(3*time.Minute, mail+` | grep -q 'The server of data is dead; its I/O waits'`)
		h.Run(`
journalctl -o cat MESSAGE_ID=882af8649f164a66be6b1ef3955cf6ce UBLK_REMAP_SET=data |
	grep 'The server of data is dead'
journalctl -x MESSAGE_ID=882af8649f164a66be6b1ef3955cf6ce | tee /run/explained
grep -q 'ublk-remap start data' /run/explained
grep -qx 'server-dead raised data' /var/lib/ublk-remap/noted
grep -qx 'server-dead raised data' /var/lib/ublk-remap/other
ublk-remap alerts list
ublk-remap alerts ack data server-dead
systemctl restart ublk-remap-monitor`)
		h.Eventually(60*time.Second, `
ublk-remap alerts list 2>/run/said | grep 'server-dead *critical *2' && test ! -s /run/said`)
		h.Run(`
systemctl reset-failed ublk-remap@data
systemctl start ublk-remap@data`)
		h.Eventually(3*time.Minute, mail+` | grep -q 'data has a server again'`)
		t.Log(h.Run(mail))
		h.Run(`
test "$(grep -c 'server-dead raised' /var/lib/ublk-remap/noted)" = 1
grep -qx 'server-dead over data' /var/lib/ublk-remap/noted
# What hooks may do and what not.
pid=$(systemctl show -P MainPID ublk-remap-monitor)
nsenter -t $pid -m sh -c '
	for f in /etc/x /usr/x /boot/x /root/x; do ! touch $f 2>/dev/null || exit 1; done
	touch /var/x /run/x
	cat /sys/block/ubdc/queue/nr_requests >/run/x
	cat /run/x >/sys/block/ubdc/queue/nr_requests'
! journalctl -b -u ublk-remap-monitor | grep -i 'denied\|not permitted\|cannot be brought' || exit 1
systemd-analyze security --no-pager ublk-remap-monitor | tail -1
systemd-analyze security --no-pager --threshold=50 ublk-remap-monitor >/dev/null
umount /data
systemctl disable --now ublk-remap@data
rm /var/lib/ublk-remap/noted /var/lib/ublk-remap/other
echo mine >/var/lib/ublk-remap/backup
dpkg --purge ublk-remap
# What its owner keeps there stays.
test "$(ls -A /var/lib/ublk-remap)" = backup
test ! -e /etc/ublk-remap`)
	})
}
