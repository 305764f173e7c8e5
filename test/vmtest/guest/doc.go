// Package guest is what cmd/vmexec does inside a guest of the VM harness,
// where it runs as process 1 and, under the name modprobe, for the kernel and
// for tests.
//
// [Init] mounts what a small Linux system has, loads the job's modules, runs
// the job's program with its output copied to two ports, sends
// back files and the exit code over a third ([proto]), and powers off. It
// never returns, and it never ends without powering off: process 1 that exits
// is a kernel panic, which the host takes for 'no result'.
//
// [Modprobe] is a small modprobe: modules.dep, exact aliases, parameters and
// removal, with the kernel decompressing the files itself.
package guest
