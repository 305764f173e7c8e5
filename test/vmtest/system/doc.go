// Package system boots whole Debian systems, with systemd as process 1, for tests of the product as
// it runs on a host: packages, units, udev rules, the way from boot to power-off.
//
// A [Host] is such a system. Its root comes from [GetRoot], which has
// mmdebstrap make it once, and is shared by all hosts of the suite: each
// writes to a copy-on-write file of its own. The machine is user-mode Linux
// (test/vmtest/uml), which boots one in a few seconds.
//
//	h := system.New(t, system.Options{Suite: "bookworm", Disks: []int64{64 << 20}})
//	h.Boot()
//	h.Run("mkfs.ext4 -q /dev/ubdc && mount /dev/ubdc /mnt && echo x >/mnt/x && sync")
//	h.PowerCut()
//	h.Boot()
//	h.Run("fsck.ext4 -fn /dev/ubdc")
//
// With a [Loader] a host boots by an initramfs from a disk of its own, and in QEMU, if there is a
// kernel, too. After [Host.BootRescue] another system boots, which has the host's disk.
//
// The cache has, beside the kernels:
//
//	CACHE/roots/SUITE-HASH/root.tar     what mmdebstrap made
//	CACHE/roots/SUITE-HASH/KERNEL.ext4  the same with the agent and a kernel's modules
//
// HASH stands for what goes in, KERNEL for the kernel and the agent. Nothing is
// ever written to them again.
//
// Disks are /dev/ubda (the root), /dev/ubdb (the payload, files of the test's
// that appear below /payload), and from /dev/ubdc on those that were asked for.
package system
