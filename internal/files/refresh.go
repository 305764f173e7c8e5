package files

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// refresh has the device that is looked at be read from its disk. The kernel keeps in memory what
// was read of each device for as long as somebody has it open. It does so for a disk and for each
// of its partitions, apart from each other: what was written by way of the disk, such as by a loop
// device or by dd, is not seen by way of the partition. What waits to be written is written first.
func (f *finder) refresh() error {
	for _, path := range f.way {
		dev, err := os.Open(path)
		if err != nil {
			return err
		}
		// Pages that somebody has mapped stay. Of all others nothing is left.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), unix.BLKFLSBUF, 0)
		_ = dev.Close()
		if errno != 0 {
			return fmt.Errorf("%s: it cannot be read anew: %w", path, errno)
		}
	}
	return nil
}
