// Package qemu boots a kernel with an initramfs in QEMU and brings back what
// process 1 of the guest (internal/vmtest/guest) has to say.
//
// KVM is used only where a kernel has been seen to boot with it on this
// machine since it was started ([Accelerator]): /dev/kvm may exist and still not
// work, as in virtual machines without nested virtualization. Elsewhere QEMU
// emulates, in its steadiest setting: one thread for all virtual CPUs and no
// cmpxchg16b.
//
// [Run] has three outcomes: an exit frame; proto.ErrNoResult, when the guest
// ended or ran into its deadline without one; or an error of the host's (no
// QEMU, say).
package qemu
