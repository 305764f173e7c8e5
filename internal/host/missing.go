package host

import (
	"errors"
	"io/fs"
	"os"
)

// missing returns which of these disks are not on this host: they were pulled out, or died so that
// the kernel removed them. A disk that comes back under another name counts as missing until a
// server has it by that name.
func missing(disks []string) []string {
	all := []string{}
	for _, d := range disks {
		if _, err := os.Stat(d); d != "" && errors.Is(err, fs.ErrNotExist) {
			all = append(all, d)
		}
	}
	return all
}
