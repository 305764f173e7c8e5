// Package machine runs one guest of the VM harness: it starts the program that is the machine,
// hands it the guest's ports, and returns what process 1 of the guest (test/vmtest/guest) reports.
//
// The kinds of machines are in packages beside it: test/vmtest/qemu is a computer that boots
// Debian's kernels, test/vmtest/uml is a kernel that runs as a process of the host. Each is a
// [Maker]: it knows the command line.
//
// [Run] has three outcomes: an exit frame; proto.ErrNoResult, when the guest
// ended or ran into its deadline without one; or an error of the host's (no
// QEMU, say).
package machine
