// Package ublk serves block devices from user space through the kernel's ublk driver. It is
// a library of its own: it knows block requests and io_uring, and nothing of what a program
// does with them.
//
// # How data moves
//
// A program opens a [Control], makes a device with [Create] (or recovers one whose server
// died with [Recover]) and calls [Device.Run] with its [Target]. For each hardware queue
// there is one goroutine, locked to one thread, with one ring:
//
//	          /dev/ublkbN                    requests of the block layer
//	               │
//	       kernel, ublk_drv                  one queue per hardware queue, Depth tags each
//	          │         ▲
//	fetch: descriptor,  │ commit: result     IORING_OP_URING_CMD on /dev/ublkcN
//	tag, data           │
//	          ▼         │
//	     Queue ── Request ──► Handler        one thread, one ring
//	          ◄── Done ─────
//	          ◄── Read, Write, Fsync, … ──   backing I/O, on the same ring
//	          ── Complete ──►
//
// A single io_uring_enter commits what is done, fetches what is new, submits backing I/O
// and waits. The loop and everything that a [Handler] may call on its [Queue] allocate
// nothing and take no lock. An idle device causes no wake-ups.
//
// The data of a request is in a buffer per tag ("copy": the kernel copies between it and
// the pages of the request) or stays in the pages of the request, which are then a
// registered buffer of the ring that only I/O can reach ("zero copy", Linux 6.16 and
// later). A Handler that names the data by [Queue.RequestBuffer] works with both.
//
// Each tag comes and goes by a command of its own. With batch I/O ([Config].BatchIO, Linux 7.0 and
// later) one command brings all tags that have come, and another one takes all answers of a round
// of the loop.
//
// # What it never does
//
// It never answers a request short: a read or write is answered with its whole length or
// with one negative errno, because the kernel takes a short answer for success. It never
// retries, reorders or splits what a Handler asks for. It starts no goroutine besides the
// queues'. It never closes /dev/ublkcN before STOP_DEV unless told to leave the device to
// another server ([Device.Leave]).
//
// # Kernels
//
// Linux 6.5 or later (GET_FEATURES); features that came later are asked for by name and
// refused with an [UnsupportedFeatureError] if the kernel lacks them. [KnownBadKernel]
// tells of kernels that are known to misbehave. The process needs CAP_SYS_ADMIN.
package ublk
