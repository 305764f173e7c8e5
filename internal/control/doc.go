// Package control is how the command talks to a running server: HTTP with JSON
// over one unix socket per device, and the runtime record beside it.
//
// All of it lives in one directory ([Dir], /run/ublk-remap): for a device
// called NAME
//
//	NAME.sock  the server's socket ([Serve], [Client])
//	NAME.json  the record ([Record]): which ublk device, which backing, which server
//	NAME.lock  locked (F_OFD_SETLK) by the server as long as it lives ([Own])
//	NAME.log   what a detached server logs
//
// The record outlives its server on purpose. After a crash it is what tells
// the next start which ublk device waits to be recovered; after a reboot the
// directory does not exist any more, nor do the devices.
//
// Only root, or the server's own user, gets in: the directory is 0700, the
// socket 0600, and the peer's credentials are checked besides. Requests are
// bounded in size and in time. The package knows neither ublk nor remapping:
// what a request means is the [Handler]'s business.
package control
