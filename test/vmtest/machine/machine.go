package machine

import (
	"io"

	"ublkremap/test/vmtest/proto"
)

// Disk is a scratch disk of a guest.
type Disk struct {
	// Path of a raw image on the host.
	Path string
	// BlockSize is the logical and physical block size, 512 or 4096.
	BlockSize int
	// Kind is ATA, NVMe, or empty for a virtual disk.
	Kind string
}

// Kinds of disks that answer SMART. Only QEMU has them.
const (
	ATA  = "ata"
	NVMe = "nvme"
)

// Guest is what a machine is to boot.
type Guest struct {
	// Initrd is the path of the initramfs.
	Initrd string
	// Dir is a directory of the guest's own on the host. It is there for as long
	// as the guest runs.
	Dir string
	// MemoryMiB and CPUs are the guest's size.
	MemoryMiB int
	CPUs      int
	Disks     []Disk
	// Append is added to the kernel's command line.
	Append string
	// Console is the path of the file that gets the kernel's console.
	Console string
	// Stdout and Stderr get what the program prints.
	Stdout, Stderr io.Writer
	// OnFile gets the files that the guest sends back.
	OnFile func(path string, contents io.Reader) error
}

// File descriptors of the program that is the machine.
const (
	// FirstPort is the first of [Ports], the others follow: stream sockets.
	FirstPort = 3
	// ConsoleFD is Guest.Console, open for appending.
	ConsoleFD = 6
)

// Ports are the names of the guest's ports (package proto), in the order of
// their descriptors.
var Ports = []string{proto.PortOut, proto.PortErr, proto.PortResult}

// Command is the program that is a machine.
type Command struct {
	// Path is its absolute path, Args its arguments without its name.
	Path string
	Args []string
	// Env is added to the environment, as KEY=VALUE.
	Env []string
}

// Maker makes machines of one kind.
type Maker interface {
	// Command says how to start a machine for a guest. An error says what the
	// host lacks.
	Command(g *Guest) (*Command, error)
}
