// Package uapi is the kernel's ublk ABI as Go constants and structs, and nothing else.
//
// It follows include/uapi/linux/ublk_cmd.h of Linux 7.3 (Debian's linux-libc-dev 7.3.4);
// older kernels know a prefix of each enumeration and ignore or refuse the rest, which
// package ublk deals with. Every group names the part of the header it comes from. Fields
// have fixed widths, padding is named, and sizes and offsets are checked when the package
// is compiled.
//
// All values are in the machine's own byte order, as the kernel shares them through memory.
// The ioctl encodings are those of asm-generic/ioctl.h, which amd64, arm64, riscv64, s390x
// and loong64 use.
package uapi
