// Package qemu makes machines of the VM harness (test/vmtest/machine) that
// boot one of Debian's kernels in QEMU.
//
// KVM is used only where a kernel has been seen to boot with it on this
// machine since it was started ([Accelerator]): /dev/kvm may exist and still not
// work, as in virtual machines without nested virtualization. Elsewhere QEMU
// emulates, in its steadiest setting: one thread for all virtual CPUs and no
// cmpxchg16b.
package qemu
