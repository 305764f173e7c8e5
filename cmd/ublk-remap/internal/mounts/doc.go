// Package mounts gives a server a mount namespace of its own with almost no mounts in it.
//
// The last process of a mount namespace that ends unmounts all its mounts. If that process is the
// server of a device with a mounted file system, its exit waits for itself, for ever. The machine
// then cannot be switched off. Other mounts in the namespace, such as a stick or another
// container's disk, would be busy as long as the server lives.
//
// So there are two steps. Own comes first, before anything is opened. It starts the program again
// in a copy of the caller's namespace, into which no new mount is propagated. Leave comes when the
// server has opened what it serves, before its device can be live. The root becomes an empty tmpfs
// with /dev, /proc, /sys and the runtime directory, and everything else is detached. The program
// itself stays reachable as /proc/PID/exe, and open files stay open.
package mounts
