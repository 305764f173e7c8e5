#!/bin/sh
# Runs in a guest with an ATA drive (/dev/sda) and an NVMe drive. Each section begins with a line
# that names it, and has what health prints and its exit code.
export COLUMNS=200
section() { echo "=== $1"; }
asked() { ublk-remap health "$@" 2>&1; echo "rc $?"; }
set -e
modprobe scsi_debug dev_size_mb=96
sleep 1
for set in ata:/dev/sda nvme:/dev/nvme0n1 scsi:/dev/sdb; do
	ublk-remap create "${set#*:}" --name "${set%%:*}" --spare 1MiB --force --yes >/dev/null
	ublk-remap start "${set%%:*}" >/dev/null
done
set +e
smartctl=$(command -v smartctl)
for set in ata nvme scsi; do
	section $set
	asked $set
done
section import
sh -c "$EXAMPLE" 2>&1
echo "rc $?"
section 'no log'
smartctl --json -x /dev/nvme0n1 | ublk-remap import nvme - --format smart 2>&1
echo "rc $?"
section type
asked ata --smart-type sat
section 'wrong type'
asked ata --smart-type bogus
section controller
asked ata --smart-type megaraid,0
mkdir -p /etc/ublk-remap
echo 'smart-type = ["sat"]' >/etc/ublk-remap/ata.toml
section configured
asked ata
echo 'smart-type = ["-x"]' >/etc/ublk-remap/ata.toml
section 'odd file'
asked ata
rm /etc/ublk-remap/ata.toml
section 'not root'
setpriv --reuid=65534 --regid=65534 --clear-groups ublk-remap health ata 2>&1
echo "rc $?"

# The kernel puts the drive to sleep while nobody uses it.
power=/sys/block/sda/device/power
sleeps() {
	for i in $(seq 300); do
		[ "$(cat $power/runtime_status)" = suspended ] && return
		sleep 0.2
	done
	echo 'it does not sleep'
}
echo 100 >$power/autosuspend_delay_ms
echo auto >$power/control
sleeps
section asleep
asked ata
echo "still $(cat $power/runtime_status)"
echo on >$power/control
section woken
asked ata --wake
echo "still $(cat $power/runtime_status)"

section hangs
mv "$smartctl" /root/smartctl
printf '#!/bin/sh\nexec sleep 1000\n' >"$smartctl"
chmod +x "$smartctl"
asked ata
section old
printf '#!/bin/sh\necho "smartctl 6.6 2017-11-05 r4594"\necho "=======> UNRECOGNIZED OPTION: json"\nexit 1\n' >"$smartctl"
asked ata
section none
rm "$smartctl"
asked ata
mv /root/smartctl "$smartctl"
for set in ata nvme scsi; do
	ublk-remap stop $set || exit 1
done
