package host

import (
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// killIn installs a package and kills dpkg, with all that it runs, once the package is in a state:
// half-installed, unpacked or half-configured. If dpkg is faster than the loop that watches the
// state, it is tried again.
const killIn = `
kill_in() { # STATE PACKAGE
	for try in $(seq 20); do
		setsid dpkg -i "$2" >/root/dpkg.out 2>&1 &
		while kill -0 $! 2>/dev/null; do
			if [ "$(dpkg-query -W -f '${db:Status-Status}' ublk-remap)" = "$1" ]; then
				kill -9 -$!
				wait $! 2>/dev/null || :
				echo "$1 at try $try"
				return 0
			fi
		done
		wait $! || :
	done
	cat /root/dpkg.out
	return 1
}
`

// dpkg is killed in the middle of an upgrade, or the power is cut then, or the package is removed:
// the device is served all the time, and dpkg can finish afterwards.
func TestUpgradeInterrupted(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Payload["newer.deb"] = deb(t, "0.0.2")
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		h.Run(writer)
		next := map[string]string{"ublk-remap": "newer", "newer": "ublk-remap"}
		name := "newer"
		for _, state := range []string{"half-installed", "unpacked", "half-configured"} {
			t.Log(h.Run(killIn + "kill_in " + state + " /payload/" + name + ".deb"))
			supervised(t, h)
			// What is half installed has to be unpacked again.
			h.Run(`dpkg --configure -a 2>/root/dpkg.out || dpkg -i /payload/` + name + `.deb
dpkg -i /payload/` + name + `.deb
test "$(dpkg-query -W -f '${db:Status-Status}' ublk-remap)" = installed`)
			supervised(t, h)
			h.Run(`grep -q "\"version\": \"$(ublk-remap version --json |
	sed -n 's/.*"version": "\(.*\)".*/\1/p')\"" /run/ublk-remap/data.json`)
			name = next[name]
		}
		t.Log("writes:", h.Run(wrote))

		t.Log(h.Run(killIn + "kill_in unpacked /payload/" + name + ".deb"))
		h.Run(writer + `
sleep 1
dpkg -r ublk-remap || true`)
		h.Run(`
grep -q '"pid": '$(systemctl show -P MainPID ublk-remap@data)',' /run/ublk-remap/data.json`)
		t.Log("writes while removed:", h.Run(wrote))
		h.Run("dpkg -i /payload/" + name + ".deb")
		supervised(t, h)
		mounted(t, h, "after a removal in the middle of an upgrade")
		name = next[name]

		t.Log(h.Run(killIn + "kill_in unpacked /payload/" + name + ".deb; sync"))
		h.PowerCut()
		h.Boot()
		h.Run("dpkg --configure -a || :; dpkg -i /payload/" + name + ".deb")
		mounted(t, h, "after a power cut in the middle of an upgrade")
		supervised(t, h)
	})
}

// With /run full nothing new can be noted there. An upgrade that fails for it leaves the server
// that serves, and is done when there is room again.
func TestUpgradeRunFull(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Payload["newer.deb"] = deb(t, "0.0.2")
	onEach(t, o, func(t *testing.T, h *system.Host) {
		installed(t, h, byID)
		// All in one script, since the test's own agent needs /run as well.
		out := h.Run(writer + `
exec >/root/full.out 2>&1
set +e
dd if=/dev/zero of=/run/full bs=64k
dd if=/dev/zero of=/run/fuller bs=1
df /run
touch /run/one-more && echo x >/run/one-more && echo 'FAIL: /run is not full'
dpkg -i /payload/newer.deb
echo "dpkg: $?"
sleep 1
ublk-remap status data >/dev/null && echo 'it answers'
# Without this systemd unmounts the file system at the next daemon-reload.
test -e /run/udev/data/b$(lsblk -dno MAJ:MIN /dev/ublkb0) || echo 'FAIL: udev forgot the device'
rm -f /run/full /run/fuller /run/one-more
exec >/dev/null
exit 0`)
		out += h.Run(`
cat /root/full.out
grep -q 'it answers' /root/full.out
if grep FAIL /root/full.out; then exit 1; fi`)
		t.Log(out)
		h.Eventually(time.Minute, "systemctl -q is-active ublk-remap@data")
		supervised(t, h)
		t.Log("writes:", h.Run(wrote))
		h.Run("dpkg -i /payload/newer.deb; ublk-remap status data")
		h.Run(`grep -q '"version": "0.0.2"' /run/ublk-remap/data.json`)
		supervised(t, h)
		mounted(t, h, "after an upgrade with /run full")
	})
}
