package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest/kernel"
)

// moduleDir is the module directory of the running kernel.
func moduleDir() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])), nil
}

// companions are modules that udev would load once the devices that the first
// one makes appear; a guest has no udev.
var companions = map[string][]string{
	"scsi_debug":  {"sd_mod"},
	"virtio_scsi": {"sd_mod"},
}

// Load loads a module and, before it, what it depends on. A module that is
// loaded or built in is left as it is; params then have no effect.
func Load(name string, params ...string) error {
	dir, err := moduleDir()
	if err != nil {
		return err
	}
	mods, err := kernel.ReadModules(dir)
	if err != nil {
		return err
	}
	files, err := mods.Closure(append(companions[name], name)...)
	if err != nil {
		return err
	}
	for i, f := range files {
		args := ""
		if i == len(files)-1 {
			args = strings.Join(params, " ")
		}
		if err := insert(filepath.Join(dir, f), args); err != nil {
			return fmt.Errorf("module %s: %s: %w", name, kernel.ModuleName(f), err)
		}
	}
	return nil
}

// insert loads one module file. Debian compresses modules with xz, which the
// kernel undoes itself when it is told (Linux 5.17, finit_module(2)).
func insert(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), params, flags)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// Modprobe is the program modprobe, as far as guests need it:
//
//	modprobe [-q] [-v] [-a] NAME [PARAM=VALUE...]
//	modprobe -r NAME...
//
// It returns the exit code. The kernel calls it as /sbin/modprobe -q -- NAME
// whenever it misses a module.
func Modprobe(args []string) int {
	var remove, quiet, all bool
	var names []string
	for _, a := range args {
		switch {
		case a == "-r" || a == "--remove":
			remove = true
		case a == "-q" || a == "--quiet":
			quiet = true
		case a == "-a" || a == "--all":
			all = true
		case strings.HasPrefix(a, "-"):
		default:
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		return 0
	}
	var err error
	switch {
	case remove:
		for _, n := range names {
			name := strings.ReplaceAll(n, "-", "_")
			if derr := unix.DeleteModule(name, unix.O_NONBLOCK); derr != nil &&
				!errors.Is(derr, unix.ENOENT) {
				err = fmt.Errorf("remove %s: %w", name, derr)
			}
		}
	case all:
		for _, n := range names {
			err = errors.Join(err, Load(n))
		}
	default:
		err = Load(names[0], names[1:]...)
	}
	if err != nil {
		if !quiet {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
		}
		return 1
	}
	return 0
}
