// Package bench measures what the README promises of the remap table and, in time, of the whole
// device. It contains benchmarks only. README.md beside it says what they showed, on which machine
// and by which command.
//
// Tables are built when a benchmark needs one, so that `go test` without -bench costs nothing. The
// largest, 16 Mi remaps scattered over 16 TiB, takes about a gigabyte.
package bench
