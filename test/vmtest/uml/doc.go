// Package uml builds user-mode Linux and makes machines of it for the VM
// harness (test/vmtest/machine).
//
// User-mode Linux is a kernel that runs as a process of the host: user code and most kernel code at
// the speed of the hardware, without KVM, booted in a second. That makes it the place for campaigns
// of hundreds of rounds, which take a day under emulation. It has no second CPU (and so only one
// hardware queue) and no SysRq. It is not the kernel that people run either: it is built here, from
// Debian's newest source, with the configuration in the file config. Tests that need those use
// test/vmtest/qemu.
//
// [Build] takes some minutes and 3 GB of the cache directory while it runs; what stays
// is small and lies beside the kernels of Debian, in the same form:
//
//	CACHE/kernels/uml -> 7.3.4-uml-HASH
//	CACHE/kernels/7.3.4-uml-HASH/linux
//	CACHE/kernels/7.3.4-uml-HASH/lib/modules/7.3.4-uml/...
//
// HASH stands for the configuration and the package of the source, so that a change of
// either is noticed.
package uml
