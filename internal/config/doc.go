// Package config reads and writes the configuration of sets: /etc/ublk-remap/NAME.toml says how the
// set called NAME is started.
//
// What can stand in a file is a list of [Option]. The verb start makes its flags of the same list,
// so that a flag and a key of one name are one thing: they have the same values, the same default
// and the same errors. Package config knows the form of the files and not what the options mean.
//
// [Read] reads a file that can be trusted: a regular file that only root can write. What it cannot
// make sense of is a [Problem] with the line and the column. [File.Apply] sets the options that a
// file names. [Write] makes a file, either whole or not at all.
package config
