// Package bench measures what the README promises of the remap table and, in
// time, of the whole device. It holds benchmarks only; what they showed, on
// which machine and by which command, is in README.md beside it.
//
// Tables are built when a benchmark needs one, so that `go test` without
// -bench costs nothing. The largest, 16 Mi remaps scattered over 16 TiB, takes
// about a gigabyte.
package bench
