// Package initrd builds the initramfs archives that guests boot from: the
// kernel's modules, tools of the host with the shared libraries that they
// need, and the program to run.
//
// An initramfs may be several cpio archives (format newc) one after the other,
// so what seldom changes is built once and kept: [Base] and [Tools] return
// paths of finished archives in the cache, named by a hash of what went into
// them, and a guest's initramfs is those two and its own small one, joined by
// [Concat].
//
// Files keep the path that they have on the host, except that the top-level
// directories that a merged /usr makes into links (/bin, /sbin, /lib, /lib64)
// are written as links into /usr. Contents of links are copied, so that
// nothing in a guest points at a file that was left behind.
package initrd
