package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest/proto"
)

// portNames in the order of proto.PortsParam.
var portNames = []string{proto.PortOut, proto.PortErr, proto.PortResult}

// openPorts opens the harness's ports: the serial lines that the kernel's
// command line names or, if it names none, those of virtio-serial.
func openPorts() (map[string]*os.File, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	for _, param := range strings.Fields(string(cmdline)) {
		if lines, ok := strings.CutPrefix(param, proto.PortsParam); ok {
			return openLines(strings.Split(lines, ","))
		}
	}
	return openVirtio()
}

// openLines opens serial lines and makes them pass on bytes as they are.
func openLines(lines []string) (map[string]*os.File, error) {
	if len(lines) != len(portNames) {
		return nil, fmt.Errorf("%s%s: %d lines are wanted", proto.PortsParam,
			strings.Join(lines, ","), len(portNames))
	}
	ports := map[string]*os.File{}
	for i, line := range lines {
		f, err := os.OpenFile(filepath.Join("/dev", line), os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, err
		}
		tty, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		if err != nil {
			return nil, fmt.Errorf("%s: TCGETS: %w", line, err)
		}
		tty.Iflag, tty.Oflag, tty.Lflag = 0, 0, 0
		if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, tty); err != nil {
			return nil, fmt.Errorf("%s: TCSETS: %w", line, err)
		}
		ports[portNames[i]] = f
	}
	return ports, nil
}

// openVirtio opens the virtio-serial ports, which appear some moments after the
// kernel has started init.
func openVirtio() (map[string]*os.File, error) {
	ports := map[string]*os.File{}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			raw, err := os.ReadFile(n)
			name := strings.TrimSpace(string(raw))
			if err != nil || name == "" || ports[name] != nil {
				continue
			}
			if f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_WRONLY,
				0); err == nil {
				ports[name] = f
			}
		}
		found := 0
		for _, w := range portNames {
			if ports[w] != nil {
				found++
			}
		}
		if found == len(portNames) {
			return ports, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d of %d virtio-serial ports after 20 s", found, len(portNames))
		}
	}
}

// drain waits until the host has taken what was written. A port that is no serial line buffers
// nothing, and returns an error.
func drain(ports map[string]*os.File) {
	for _, f := range ports {
		// With an argument other than 0 it is tcdrain(3), see tty_ioctl(2).
		_ = unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
	}
}
