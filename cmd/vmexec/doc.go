// Command vmexec runs a program in a guest that boots one of Debian's cloud kernels or user-mode
// Linux, as if the program ran on this machine. It passes the arguments, the working directory and
// test data to the guest, and brings back standard output, standard error and the exit code.
//
//	go test -exec "bin/vmexec -kernel 7.3 -tools all" ./ublk/...
//	bin/vmexec -kernel 6.12 -tools all -file bin/ublk-remap:/usr/local/bin/ublk-remap \
//		script.sh ARG...
//
// The same binary is process 1 of the guest (package test/vmtest/guest).
// docs/TESTING.md describes the flags, the environment variables and the exit
// codes; vmexec -help lists them.
package main
