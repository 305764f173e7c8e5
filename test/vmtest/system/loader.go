package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/qemu"
)

// Loader is what a host's boot loader does: it reads an initramfs from a disk, and starts
// a kernel with it. Without one, user-mode Linux mounts the root file system by itself.
type Loader struct {
	// Disk is one of Options.Disks, counted from 0. It has an ext2, ext3 or ext4.
	Disk int
	// Initrd is the path of the initramfs in that file system.
	Initrd string
	// Kernel is the path of a kernel there, for QEMU, where disks are /dev/vda, …; empty:
	// user-mode Linux, where they are /dev/ubda, ….
	Kernel string
	// Append is the rest of the kernel's command line.
	Append string
	// Type is typed at the console of user-mode Linux, one after the other.
	Type []Typed
}

// Typed is a text that is typed once the console has shown the prompt after what was typed before.
type Typed struct{ Prompt, Text string }

// KernelPackages returns the files of Debian's packages of the newest cloud kernel of a
// series, such as 6.12, for a release, such as deb12, for a host to install.
func KernelPackages(t testing.TB, series, release string) []string {
	t.Helper()
	cache, err := kernel.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	debs, err := kernel.Packages(cache, series, release, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return debs
}

// BootWith makes a boot loader do the boots that follow; nil: none does.
func (h *Host) BootWith(l *Loader) { h.loader = l }

// BootRescue makes the boots that follow use another disk, which has the system that the host had
// at first; false ends that. The host's own disk is at RootDisk then.
func (h *Host) BootRescue(rescue bool) { h.rescue = rescue }

// SetBad makes reads and writes of these sectors of the root disk, of 512 bytes each, fail from the
// next boot in QEMU on.
func (h *Host) SetBad(sectors []int64) { h.bad = sectors }

// RootDisk is the disk that the host's system is on.
func (h *Host) RootDisk() string {
	switch {
	case h.rescue:
		return fmt.Sprintf("/dev/ubd%c", 'a'+len(h.options.Disks)+2)
	case h.emulates():
		return "/dev/vda"
	}
	return "/dev/ubda"
}

func (h *Host) emulates() bool { return h.loader != nil && h.loader.Kernel != "" && !h.rescue }

// typed is what is typed at the console.
func (h *Host) typed() []Typed {
	if h.loader == nil || h.rescue {
		return nil
	}
	return h.loader.Type
}

func (h *Host) rootFile() string { return filepath.Join(h.dir, "root") }

// load reads a file as a boot loader does and returns where it is then.
func (h *Host) load(path string) (string, error) {
	to := filepath.Join(h.dir, filepath.Base(path))
	if err := os.RemoveAll(to); err != nil {
		return "", err
	}
	disk := h.disk(h.loader.Disk)
	if err := run("debugfs", "-R", fmt.Sprintf("dump %s %s", path, to), disk); err != nil {
		return "", err
	}
	if !exists(to) {
		return "", fmt.Errorf("disk %d has no %s", h.loader.Disk, path)
	}
	return to, nil
}

// bootArguments say what user-mode Linux boots, and how.
func (h *Host) bootArguments(initrd string) []string {
	copyOnWrite := func(name string) string {
		return fmt.Sprintf("%s,%s", filepath.Join(h.dir, name), h.root.Image)
	}
	root := copyOnWrite("root.cow")
	if h.options.OwnRoot {
		root = h.rootFile()
	}
	switch {
	case h.rescue:
		return []string{"ubd0=" + copyOnWrite("rescue.cow"),
			fmt.Sprintf("ubd%d=%s", len(h.options.Disks)+2, root),
			"root=/dev/ubda", "rw", "rootfstype=ext4"}
	case h.loader == nil:
		return []string{"ubd0=" + root, "root=/dev/ubda", "rw", "rootfstype=ext4"}
	}
	return append([]string{"ubd0=" + root, "initrd=" + initrd},
		strings.Fields(h.loader.Append)...)
}

// emulatedLine is the kernel's command line. Features that are turned off cost time and are not
// needed here. The kernel's check of its timer fails where this machine is busy at that moment.
const emulatedLine = "console=ttyS0 loglevel=5 oops=panic panic=-1 mitigations=off nokaslr " +
	"no5lvl random.trust_cpu=on audit=0 lsm= cryptomgr.notests=1 init_on_alloc=0 no_timer_check " +
	"system.agent=ttyS1 system.payload=/dev/vdb "

// qemu is an emulated machine. Its agent's serial line is the first descriptor that is
// passed on.
func (h *Host) qemu(initrd string) (*exec.Cmd, error) {
	path, err := exec.LookPath(qemu.Binary)
	if err != nil {
		return nil, qemu.ErrNoQEMU
	}
	image, err := h.load(h.loader.Kernel)
	if err != nil {
		return nil, err
	}
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=single", "-cpu", "max,-cx16",
		"-smp", "1", "-m", fmt.Sprint(h.options.MemoryMiB),
		"-kernel", image, "-initrd", initrd, "-append", emulatedLine + h.loader.Append,
		"-chardev", "file,append=on,id=console,path=" + comma(h.console), "-serial",
		"chardev:console",
		"-chardev", "socket,id=agent,fd=3", "-serial", "chardev:agent",
	}
	disk := func(options, file string) {
		id := fmt.Sprintf("d%d", len(args))
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,%s,%s", id, options,
			file), "-device", "virtio-blk-pci,drive="+id)
	}
	name := func(path string) string { return "file.filename=" + comma(path) }
	root := name(h.rootFile())
	if len(h.bad) > 0 {
		root = "file.driver=blkdebug,file.image.filename=" + comma(h.rootFile())
		for i, sector := range h.bad {
			root += fmt.Sprintf(",file.inject-error.%d.event=none,file.inject-error.%d.errno=5,"+
				"file.inject-error.%d.sector=%d", i, i, i, sector)
		}
	}
	disk("cache=writeback,discard=unmap,rerror=report,werror=report", root)
	disk("readonly=on", name(filepath.Join(h.dir, "payload")))
	for i := range h.options.Disks {
		if !h.missing[i] {
			disk("cache=writeback", name(h.disk(i)))
		}
	}
	return exec.Command(path, args...), nil
}

// comma doubles commas, which separate QEMU's options.
func comma(path string) string { return strings.ReplaceAll(path, ",", ",,") }
