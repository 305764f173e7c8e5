// Package prepare does what create does to disks until they are a set. It says what is on them
// ([Inspect], [Kept]), lays the set out around bad places ([New]), tries the places that the set
// will rely on ([Preparation.Survey]), and writes the set ([Preparation.Blank],
// [Preparation.RemapFound], [Preparation.Write], in this order).
//
// It never prints and never asks. Until Blank the contents of the disks stay the same: a survey
// writes back what it has read.
package prepare
