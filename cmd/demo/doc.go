// Command demo shows the main task of ublk-remap, and checks every statement that it makes. It
// builds a disk with bad sectors (scripts/badloop) and proves that the bad sectors really fail. It
// puts ublk-remap in front, fills a file system on it, stops and starts the server, and compares
// every file with its checksum.
//
// It runs as root, on a machine or in a guest that has ublk. scripts/demo (and make demo) chooses
// which, and runs it there. It uses ublk-remap only as a user would: by its verbs and their --json.
// What it says about bad sectors comes from other sources: from the device-mapper table, from
// direct reads and writes, and from the file system's own extent map (FIEMAP).
//
// It never touches a device that it did not make. It undoes what it did, also when a check fails or
// it is interrupted. Exit codes: 0 every check passed, 1 a check failed or a step could not be
// done, 2 usage.
package main
