// Package uring is what package ublk needs of io_uring: giouring for rings, submission and
// completion queues, and around it what giouring lacks or gets wrong.
//
//   - Entries come zeroed. giouring's prepare functions leave some fields as the last user
//     of the slot left them, so none of them is used: this package has encoders of its own.
//   - Every io_uring_enter is made here, with its own flush of the submission queue. So a
//     wait can have a time limit whose timespec lies in memory that never moves, a partial
//     submission is noticed, and the registered ring descriptor is used and given back.
//   - io_uring_register is called raw, with the types the kernel wants and its errors kept.
//   - A ring of 128-byte entries is unmapped whole.
//
// A Ring belongs to one thread from New to Close: it is set up SINGLE_ISSUER, and its
// registered descriptor is valid on that thread only. The caller locks its goroutine.
package uring
