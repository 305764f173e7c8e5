package blockdev

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Thermometer is a file of the kernel that has the temperature of a disk.
type Thermometer struct{ path string }

// FindThermometer finds that of the disk below a path: a disk itself, a partition, or a device that
// is made of others, whose first disk with a thermometer counts. There is one where the kernel has
// a driver for it (Documentation/hwmon/drivetemp.rst; drivers/nvme/host/hwmon.c). It returns nil if
// there is none.
func FindThermometer(path string) *Thermometer {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	b := &beneath{seen: map[string]bool{}}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		b.device(nameOf(st.Rdev), 0)
	} else {
		b.fileSystem(path, 0)
	}
	return thermometerOf("/sys/class/block", b.names)
}

// thermometerOf finds that of the first of some disks that has one.
func thermometerOf(class string, names []string) *Thermometer {
	for _, name := range names {
		for _, pattern := range [...]string{"hwmon/hwmon*", "hwmon*"} {
			found, _ := filepath.Glob(filepath.Join(class, name, "device", pattern, "temp1_input"))
			if len(found) > 0 {
				return &Thermometer{found[0]}
			}
		}
	}
	return nil
}

// Read asks the disk, which may take a while. The result is in °C. It may be called on nil.
func (t *Thermometer) Read() (celsius int8, known bool) {
	if t == nil {
		return 0, false
	}
	b, err := os.ReadFile(t.path)
	if err != nil {
		return 0, false
	}
	milli, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || milli < -100_000 || milli > 120_000 {
		return 0, false
	}
	return int8(milli / 1000), true
}
