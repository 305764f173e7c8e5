// Package kernel fetches Debian's cloud kernels for the VM harness and knows
// what is in them.
//
// A series such as "6.12" is looked up in the Debian suites that carry it; the
// newest package of the series is downloaded and unpacked into the project's own
// cache:
//
//	CACHE/kernels/7.3 -> 7.3.4+deb13-cloud-amd64
//	CACHE/kernels/7.3.4+deb13-cloud-amd64/vmlinuz
//	CACHE/kernels/7.3.4+deb13-cloud-amd64/lib/modules/7.3.4+deb13-cloud-amd64/...
//	CACHE/apt/7.3/...            apt's lists and archives for that series
//
// The work is done by apt-get and dpkg-deb with every directory redirected
// into the cache, so signatures are checked as usual while nothing of the
// machine's own apt configuration, package lists or installed packages is
// changed. Only depmod (package kmod) is needed besides.
//
// A kernel appears under its name by one rename, after everything in it is
// there, and processes that fetch at the same time wait for each other on a
// lock file. What is in the cache is used without any network.
package kernel
