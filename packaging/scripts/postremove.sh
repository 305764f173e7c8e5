#!/bin/sh
# deb: remove, purge, upgrade, …; rpm: how many versions are left.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
if [ -e /run/udev/control ]; then
	udevadm control --reload || :
fi
case "$1" in
purge | 0)
	# Removes the list of enabled sets, the logs of servers that failed, and what the monitor has
	# told. Disks are not touched, nor is what an owner keeps beside the monitor's state, such as
	# backups of metadata.
	rm -f /etc/systemd/system/ublk-remap.target.wants/ublk-remap@*.service
	rmdir --ignore-fail-on-non-empty /etc/systemd/system/ublk-remap.target.wants 2>/dev/null || :
	rm -rf /run/ublk-remap
	rm -f /var/lib/ublk-remap/alerts.json /var/lib/ublk-remap/.alerts-*
	rmdir --ignore-fail-on-non-empty /var/lib/ublk-remap 2>/dev/null || :
	;;
esac
# A purge of a deb removes the configuration. A removal of an rpm keeps it.
if [ "$1" = purge ]; then
	rm -rf /etc/ublk-remap
fi
