// Package config reads and writes the configuration of sets: /etc/ublk-remap/NAME.toml says how the
// set called NAME is started.
//
// A list of [Option] says what a file can contain. The verb start makes its flags from the same
// list. So a flag and a key of the same name have the same values, the same default and the same
// errors. Package config knows the form of the files, but not the meaning of the options.
//
// [Read] reads a file only if it can be trusted: a regular file that only root can write. Text that
// it cannot understand gives a [Problem] with the line and the column. [File.Apply] sets the
// options that a file names. [Write] makes a file, either whole or not at all.
package config
