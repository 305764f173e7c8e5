// Package hostile tests the program end to end against hostile input and surroundings. It has the
// tests that need a kernel with ublk: second servers for one disk, disks that are reached by
// several ways, floods on the control socket under I/O, output that goes nowhere, planted files. It
// has no code of its own, only tests. What needs no ublk is tested beside the code:
// cmd/ublk-remap/hostile_test.go, internal/control/hostile_test.go, and the fuzzers.
//
// Each refusal must have its exit code and be one printable line.
package hostile
