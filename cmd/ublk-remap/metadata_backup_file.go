package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// placeForBackup refuses a file that would be on the disk itself. It also refuses a file that
// exists and is not a backup of the set.
func placeForBackup(file string, b *metadata.Backup, members []string) error {
	if err := outside(file, members); err != nil {
		return err
	}
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s: %w: it is not a regular file; choose another name", file,
			exit.ErrRefused)
	case st.Size() == 0:
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// A damaged backup may also be replaced, if its first page names the set.
	set, err := metadata.BackupOf(f)
	if err != nil {
		return fmt.Errorf("%s: %w: there is a file that is no backup; choose another name", file,
			exit.ErrRefused)
	}
	if set != b.Superblock.UUID {
		return fmt.Errorf("%s: %w: there is a backup of another set, %s; choose another name", file,
			exit.ErrRefused, set)
	}
	return nil
}

// outside refuses a file that is on a device of the set, or is such a device.
func outside(file string, members []string) error {
	for _, m := range members {
		if blockdev.SameDisk(m, file) {
			return fmt.Errorf("%s: %w: it is a device of the set; choose a file on another disk",
				file, exit.ErrRefused)
		}
	}
	on, err := blockdev.RestsOn(filepath.Dir(file), members)
	if err != nil {
		return err
	}
	if on {
		return fmt.Errorf("%s: %w: it would be on the very disk that it is the backup of; choose "+
			"a file on another disk", file, exit.ErrRefused)
	}
	return nil
}
