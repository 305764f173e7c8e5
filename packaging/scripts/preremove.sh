#!/bin/sh
# deb: remove, upgrade, …; rpm: how many versions will be left.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

# Without its program a device can be neither stopped nor recovered.
if ! table=$(ublk-remap list 2>&1); then
	if [ -n "$(ls /sys/class/ublk-char 2>/dev/null)" ]; then
		echo "ublk-remap: not removed: there are ublk devices, and whose they are cannot be told: $table" >&2
		exit 1
	fi
	table=
fi
live=$(echo "$table" | awk 'NR > 1 { print $2 == "-" ? $1 : $2 }')
if [ -n "$live" ]; then
	echo "ublk-remap: not removed while devices are served; unmount and stop them first:" >&2
	for name in $live; do
		echo "  ublk-remap stop $name" >&2
	done
	exit 1
fi
if [ -d /run/systemd/system ]; then
	systemctl disable --now ublk-remap-monitor.service || :
fi
