// Command vmexec runs a program in a guest that boots one of Debian's cloud
// kernels or user-mode Linux, as if it ran here: same arguments, working directory and
// test data; standard output, standard error and exit code come back.
//
//	go test -exec "bin/vmexec -kernel 7.3 -tools all" ./ublk/...
//	bin/vmexec -kernel 6.12 -tools all -file bin/ublk-remap:/usr/local/bin/ublk-remap \
//		script.sh ARG...
//
// The same binary is process 1 of the guest (package test/vmtest/guest).
// docs/TESTING.md describes the flags, the environment variables and the exit
// codes; vmexec -help lists them.
package main
