// Package proto is the protocol between the host side of the VM harness (cmd/vmexec,
// test/vmtest/machine) and its guest side (test/vmtest/guest, process 1 of the guest).
//
// The guest gets one message, the [Job], a JSON file in the initramfs at [JobPath]. It answers on
// three ports, of virtio-serial or plain serial lines ([PortsParam]):
//
//	vmexec.out   the program's standard output, bytes as they come
//	vmexec.err   its standard error
//	vmexec.res   frames: any number of files, then exactly one exit
//
// A frame is one line of JSON ([Frame]) that ends in a newline, followed by
// Size bytes of contents for a file. A guest whose result port closes before
// an exit frame has given no result, whatever it printed before; [ReadResult]
// answers [ErrNoResult] then.
//
// The package does no I/O of its own beyond the readers and writers it is handed.
package proto
