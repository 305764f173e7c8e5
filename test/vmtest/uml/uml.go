package uml

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/machine"
	"ublkremap/test/vmtest/proto"
)

// ErrDisk is returned for a disk that user-mode Linux cannot have.
var ErrDisk = errors.New("disks of user-mode Linux have blocks of 512 bytes")

// Machine makes machines of one kernel. They have one CPU, whatever the guest
// asks for: with more, the threads of a process are known to get in each other's way.
// A guest's disks are /dev/ubda, /dev/ubdb, …
type Machine struct {
	Kernel *kernel.Kernel
}

// cmdline is the kernel's command line. seccomp=on stops processes by seccomp instead of ptrace,
// which is faster by far. An oops ends the guest, because results after an oops prove nothing. The
// ports are serial lines, the console is a file. The line must ask for a tmpfs as the root:
// user-mode Linux adds a root= of its own, with which the kernel uses a ramfs, which has no direct
// I/O.
const cmdline = "ncpus=1 seccomp=on quiet noreboot con=null con0=null,fd:%d console=tty0 " +
	"loglevel=5 " +
	"oops=panic panic=-1 audit=0 cryptomgr.notests=1 rootfstype=tmpfs rdinit=/init"

// Command says how to start user-mode Linux.
func (m *Machine) Command(g *machine.Guest) (*machine.Command, error) {
	args := []string{
		fmt.Sprintf("mem=%dM", g.MemoryMiB), "initrd=" + g.Initrd, "uml_dir=" + g.Dir, "umid=guest",
	}
	args = append(args, strings.Fields(fmt.Sprintf(cmdline, machine.ConsoleFD))...)
	var lines []string
	for i := range machine.Ports {
		args = append(args, fmt.Sprintf("ssl%d=null,fd:%d", i, machine.FirstPort+i))
		lines = append(lines, fmt.Sprintf("ttyS%d", i))
	}
	args = append(args, proto.PortsParam+strings.Join(lines, ","))
	for i, d := range g.Disks {
		if d.BlockSize != 512 || d.Kind != "" {
			return nil, ErrDisk
		}
		args = append(args, fmt.Sprintf("ubd%d=%s", i, d.Path))
	}
	args = append(args, strings.Fields(g.Append)...)
	return &machine.Command{Path: m.Kernel.Image, Args: args,
		Env: []string{"TMPDIR=" + memoryDir(g)}}, nil
}

// memoryDir is where the file that is the guest's memory lies: in the host's
// memory, if /dev/shm takes that much (in containers it may be small), else on
// disk.
func memoryDir(g *machine.Guest) string {
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err == nil && st.Type == unix.TMPFS_MAGIC &&
		st.Flags&unix.ST_NOEXEC == 0 &&
		st.Bavail*uint64(st.Bsize) > uint64(g.MemoryMiB)<<20 {
		return shm
	}
	return g.Dir
}
