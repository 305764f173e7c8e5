// Package ublktest has small targets for package ublk: one that stores nothing and one that
// is a piece of memory. They are for tests, benchmarks and as something to read; nothing
// that is stored in them outlives the process.
//
// Requests take the ways a real server's take: the handler of RAM carries them out on the
// ring, against a memory file, so that the same code runs with and without zero copy.
package ublktest
