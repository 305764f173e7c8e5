// Package prepare is what create does to disks, before and until they are a set: it says what is
// on them ([Inspect], [Kept]), lays the set out around what is bad ([New]), tries the places that
// the set will rely on ([Preparation.Survey]), and writes it ([Preparation.Blank],
// [Preparation.RemapFound], [Preparation.Write], in this order).
//
// It never prints and never asks. Up to Blank the contents of the disks stay as they are: what a
// survey reads it writes back.
package prepare
