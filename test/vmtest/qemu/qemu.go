package qemu

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/machine"
)

// Binary is the emulator that is run.
const Binary = "qemu-system-x86_64"

// Accelerators.
const (
	TCG = "tcg"
	KVM = "kvm"
)

// ErrNoQEMU is returned when the host has no QEMU.
var ErrNoQEMU = errors.New("no " + Binary + " (package qemu-system-x86; scripts/deps installs it)")

// Machine makes machines that boot one kernel. A guest's disks are /dev/vda,
// /dev/vdb, …
type Machine struct {
	Kernel *kernel.Kernel
	// Accel is TCG or KVM.
	Accel string
	// Parallel gives each CPU of an emulated guest a thread of the host's. Several are
	// faster then, but one guest in twenty does not come up.
	Parallel bool
}

// Command says how to start QEMU.
func (m *Machine) Command(g *machine.Guest) (*machine.Command, error) {
	path, err := exec.LookPath(Binary)
	if err != nil {
		return nil, ErrNoQEMU
	}
	return &machine.Command{Path: path, Args: m.args(g)}, nil
}

// cmdline is the kernel's command line. An oops ends the guest, because results after an oops prove
// nothing. Mitigations, security modules and self-tests cost time and are not needed here.
const cmdline = "console=ttyS0 loglevel=5 oops=panic panic=-1 mitigations=off nokaslr no5lvl " +
	"random.trust_cpu=on audit=0 lsm= cryptomgr.notests=1 init_on_alloc=0 rdinit=/init"

func (m *Machine) args(g *machine.Guest) []string {
	accel, cpu := "tcg,thread=single", "max,-cx16"
	if m.Parallel {
		accel = "tcg,thread=multi"
	}
	if m.Accel == KVM {
		accel, cpu = "kvm", "host"
	}
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(g.CPUs), "-m", fmt.Sprint(g.MemoryMiB),
		"-kernel", m.Kernel.Image, "-initrd", g.Initrd,
		"-append", strings.TrimSpace(cmdline + " " + g.Append),
		"-chardev", "file,id=console,path=" + escape(g.Console), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=4",
	}
	for i, port := range machine.Ports {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=p%d,fd=%d", i, machine.FirstPort+i),
			"-device", fmt.Sprintf("virtserialport,nr=%d,chardev=p%d,name=%s", i+1, i, port))
	}
	for i, d := range g.Disks {
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=d%d,format=raw,cache=unsafe,discard=unmap,file=%s", i,
				escape(d.Path)))
		switch d.Kind {
		case machine.ATA:
			args = append(args, "-device", fmt.Sprintf("ich9-ahci,id=ahci%d", i),
				"-device", fmt.Sprintf("ide-hd,bus=ahci%d.0,drive=d%d,serial=ATA%d", i, i, i))
		case machine.NVMe:
			args = append(args, "-device", fmt.Sprintf("nvme,drive=d%d,serial=NVME%d", i, i))
		default:
			args = append(args, "-device", fmt.Sprintf(
				"virtio-blk-pci,drive=d%d,logical_block_size=%d,physical_block_size=%d", i,
				d.BlockSize, d.BlockSize))
		}
	}
	return args
}

// escape doubles commas, which separate QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
