// Package lists reads and writes what other tools say about bad blocks: the lists of badblocks(8),
// e2fsck, mke2fs, dumpe2fs -b, MD and null_blk, the maps of GNU ddrescue, smartctl's JSON,
// nvme get-lba-status, the metadata of dm-remap, and the tables of dmsetup.
//
// Each reader gives a List: sorted runs of bytes of one device. It reads all of its input before
// anything is done with it, so an error means that nothing was done. An error names the file and
// the line. Memory follows the number of lines, not the numbers in them.
//
// It knows nothing of sets, and opens no devices. Package main of the command says which blocks of
// a set the bytes are.
package lists
