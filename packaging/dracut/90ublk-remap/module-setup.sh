#!/bin/bash
# Makes an initramfs with systemd start the sets that the root file system lies on.

# called by dracut
check() {
	require_binaries /usr/sbin/ublk-remap || return 1
	[[ $(/usr/lib/ublk-remap/initramfs-sets) ]] || return 255
}

# called by dracut
depends() {
	echo systemd udev-rules
}

# called by dracut
installkernel() {
	hostonly='' instmods ublk_drv
}

# called by dracut
install() {
	local sets name options
	sets=$(/usr/lib/ublk-remap/initramfs-sets) || {
		derror "ublk-remap: which sets the initramfs has to start could not be found out"
		return 1
	}
	inst /usr/sbin/ublk-remap
	inst_rules 59-ublk-remap.rules 61-ublk-remap.rules
	inst_multiple "$systemdsystemunitdir/ublk-remap@.service" \
		"$systemdsystemunitdir/ublk-remap.target" "$systemdsystemunitdir/ublkremap.slice"
	for options in /etc/ublk-remap/*.toml; do
		[[ -f $options ]] || continue
		# With a wrong file the set would not start. Without the file it has the defaults.
		if /usr/sbin/ublk-remap config check "$options" >/dev/null; then
			inst "$options"
		else
			dwarn "ublk-remap: $options is left out of the initramfs"
		fi
	done
	# A set that has a name only is still to be made. Its root file system can be converted in the
	# shell of the initramfs.
	if grep -qv ' ' <<<"$sets"; then
		inst_multiple -o e2fsck resize2fs
	fi
	# udev starts a set's unit if the target wants it, as on the running system.
	mkdir -p "$initdir/etc/systemd/system/ublk-remap.target.wants" \
		"$initdir/etc/systemd/system/ublk-remap@.service.d"
	while read -r first second _; do
		name=${second:-$first}
		ln -sf "$systemdsystemunitdir/ublk-remap@.service" \
			"$initdir/etc/systemd/system/ublk-remap.target.wants/ublk-remap@$name.service"
	done <<<"$sets"
	printf '%s\n' '[Service]' 'ExecStart=' \
		'ExecStart=/usr/sbin/ublk-remap start --foreground --root-storage %i' \
		>"$initdir/etc/systemd/system/ublk-remap@.service.d/root-storage.conf"
}
