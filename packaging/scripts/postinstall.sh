#!/bin/sh
# deb: configure [OLD-VERSION], or abort-…; rpm: how many versions there are now.
set -e
case "$1" in
configure) old=$2 ;;
1) old= ;;
[2-9]*) old=$1 ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
	systemctl try-restart ublk-remap-monitor.service || :
fi
if [ -e /run/udev/control ]; then
	udevadm control --reload || :
fi
# This fails in containers and image builds, and with some kernels. ublk-remap doctor says more.
modprobe -q ublk_drv 2>/dev/null || :

# The running servers are swapped for this version, one after the other. If a swap fails, a message
# says so, and the old server goes on.
if [ -n "$old" ] && [ -d /run/ublk-remap ]; then
	if ! table=$(ublk-remap list 2>&1); then
		echo "ublk-remap: the servers that run were not upgraded: $table" >&2
		exit 0
	fi
	echo "$table" | awk 'NR > 1 && $2 != "-" { print $2 }' | while read -r name; do
		if [ -d /run/systemd/system ] && systemctl -q is-active "ublk-remap@$name.service"; then
			systemctl reload "ublk-remap@$name.service"
		else
			ublk-remap upgrade "$name" >/dev/null
		fi || echo "ublk-remap: $name: its server was not upgraded; the old one still serves it; see: ublk-remap status $name" >&2
	done
fi
