// Package mounts gives a server a mount namespace of its own, with next to
// nothing in it.
//
// A process that ends gives back its mount namespace, and the last one to do so
// unmounts what is mounted there. For a server that is a trap: a file system on its
// own device is then unmounted by a process that can no longer serve it, which hangs
// in its exit for ever, and so does the machine when it is to be switched off. What
// else is mounted there, a stick or another container's disk, would be busy for as long
// as the server lives.
//
// So it goes in two steps. Own comes first, before anything was opened: the
// program starts itself again in a copy of the caller's namespace into which no new
// mount is propagated. Leave comes when the server has opened what it serves, and
// before its device can be live: the root becomes an empty tmpfs with /dev, /proc, /sys and
// the directory of the runtime files, and everything else is detached. The
// program itself stays reachable as /proc/PID/exe, and files that are open stay open.
package mounts
