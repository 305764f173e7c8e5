// Package control connects the command with a running server: HTTP with JSON over one unix socket
// per device, and the record file beside the socket.
//
// All of it lives in one directory ([Dir], /run/ublk-remap). For a device called NAME there are:
//
//	NAME.sock  the server's socket ([Serve], [Client])
//	NAME.json  the record ([Record]): which ublk device, which backing, which server
//	NAME.lock  locked (F_OFD_SETLK) by the server as long as it lives ([Own])
//	NAME.log   what a detached server logs
//
// The record outlives its server on purpose. After a crash it tells the next start which ublk
// device waits to be recovered. After a reboot the directory no longer exists, and neither do the
// devices.
//
// Only root and the server's own user have access: the directory is 0700, the socket 0600, and the
// peer's credentials are checked as well. Requests are bounded in size and in time. The package
// knows neither ublk nor remapping. The [Handler] knows what a request means.
package control
