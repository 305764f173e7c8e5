// Package mounts gives a server a mount namespace of its own, with next to
// nothing in it.
//
// The last process of a mount namespace to end unmounts what is mounted there. If that is the
// server of a file system's own device, it waits in its exit for itself: for ever, and so does
// the machine when it is to be switched off. Other mounts in the namespace, a stick or another
// container's disk, would be busy as long as the server lives.
//
// So it goes in two steps. Own comes first, before anything was opened: the
// program starts itself again in a copy of the caller's namespace into which no new
// mount is propagated. Leave comes when the server has opened what it serves, and
// before its device can be live: the root becomes an empty tmpfs with /dev, /proc, /sys and
// the directory of the runtime files, and everything else is detached. The
// program itself stays reachable as /proc/PID/exe, and files that are open stay open.
package mounts
