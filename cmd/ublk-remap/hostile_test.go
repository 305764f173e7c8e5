package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/vmtest"
)

// withLimit is ublkRemap that fails the test if it hangs.
func withLimit(t *testing.T, args ...string) result {
	t.Helper()
	ended := make(chan result, 1)
	go func() { ended <- ublkRemap(t, args...) }()
	select {
	case r := <-ended:
		return r
	case <-time.After(time.Minute):
		t.Fatalf("%q hangs", args)
		return result{}
	}
}

// refusedWith checks that a run failed as it should: with this exit code, one printable line on
// standard error that contains these texts, and nothing on standard output.
func refusedWith(t *testing.T, what string, r result, code int, says ...string) {
	t.Helper()
	line := strings.TrimSuffix(r.err, "\n")
	t.Logf("%-34s %d  %s", what, r.code, line)
	if r.code != code {
		t.Errorf("%s: exit code %d, want %d: %s%s", what, r.code, code, r.err, r.out)
	}
	if r.out != "" {
		t.Errorf("%s: standard output: %q", what, r.out)
	}
	if !strings.HasPrefix(line, "ublk-remap: ") || !utf8.ValidString(line) ||
		strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%s: not one printable line: %q", what, r.err)
	}
	for _, s := range says {
		if !strings.Contains(line, s) {
			t.Errorf("%s: it does not say %q: %s", what, s, line)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sum is the type and the checksum of a file or device. It must not change when an operation is
// refused.
func sum(t *testing.T, path string) string {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		return "none"
	}
	text := st.Mode().String()
	if st.Mode().IsRegular() || st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		h := xxhash.New()
		_, err = io.Copy(h, f)
		must(t, err)
		text += fmt.Sprintf(" %x", h.Sum(nil))
	}
	return text
}

// anywhere skips a test in guests, because the test does not depend on the kernel, and has run on
// the machine itself.
func anywhere(t *testing.T) {
	t.Helper()
	if vmtest.InGuest() {
		t.Skip("runs outside of guests")
	}
}

const hostileSize = 12 << 20

// TestPathsThatAreNoDisks: whatever is at a path, no verb hangs, panics or changes it.
func TestPathsThatAreNoDisks(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, unix.Mkfifo(at("pipe"), 0o600))
	l, err := net.Listen("unix", at("sock"))
	must(t, err)
	defer l.Close()
	must(t, os.Symlink("b", at("a")))
	must(t, os.Symlink("a", at("b")))
	must(t, os.Symlink("nowhere", at("dangling")))
	must(t, os.WriteFile(at("file"), nil, 0o600))
	gone, err := os.Create(at("gone"))
	must(t, err)
	defer gone.Close()
	must(t, os.Remove(at("gone")))
	for _, c := range []struct {
		what, path string
		code       int
		says       string
	}{
		{"directory", dir, exit.Usage, "a directory"},
		{"directory with a slash", dir + "/", exit.Usage, "a directory"},
		{"pipe", at("pipe"), exit.Usage, "a pipe"},
		{"socket", at("sock"), exit.Usage, "a socket"},
		{"/dev/null", "/dev/null", exit.Usage, "a character device"},
		{"/dev/zero", "/dev/zero", exit.Usage, "a character device"},
		{"/dev/tty-like", "/dev/ptmx", exit.Usage, "a character device"},
		{"circle of links", at("a"), exit.NotFound, at("a")},
		{"dangling link", at("dangling"), exit.NotFound, at("dangling")},
		{"missing", at("missing"), exit.NotFound, at("missing")},
		{"deleted", at("gone"), exit.NotFound, at("gone")},
		{"below a file", at("file/x"), exit.NotFound, at("file/x")},
		{"name of 256 bytes", at(strings.Repeat("x", 256)), exit.NotFound, "xxx"},
		{"path of 5000 bytes", at(strings.Repeat("x/", 2500)), exit.NotFound, "x/x"},
		{"path of 100000 bytes", "/" + strings.Repeat("y", 100_000), exit.NotFound, "yyy"},
		{"escapes", at("\x1b]0;title\a\x1b[2J"), exit.NotFound, `\x1b]0;title\a\x1b[2J`},
		{"line break", at("a\nrm -rf"), exit.NotFound, "rm -rf"},
		{"no UTF-8", at("\xff\xfe"), exit.NotFound, `\xff\xfe`},
		{"percent", at("%s%n%d%!"), exit.NotFound, "%s%n%d%!"},
		{"quotes", at(`"'` + "`$(id)"), exit.NotFound, `"'` + "`$(id)"},
		{"right to left", at("\u202egpj.sda"), exit.NotFound, `\u202egpj.sda`},
	} {
		before := sum(t, c.path)
		refusedWith(t, "create "+c.what, withLimit(t, "create", c.path, "--force", "--yes"), c.code,
			c.says)
		refusedWith(t, "start "+c.what, withLimit(t, "start", c.path), c.code)
		refusedWith(t, "check "+c.what, withLimit(t, "metadata", "check", c.path), c.code)
		if after := sum(t, c.path); after != before {
			t.Errorf("%s: it was %s and is %s", c.what, before, after)
		}
	}
	for _, c := range []struct {
		what string
		args []string
		code int
	}{
		{"create, empty", []string{"create", ""}, exit.Usage},
		{"start, empty", []string{"start", ""}, exit.Usage},
		{"check, empty", []string{"metadata", "check", ""}, exit.Usage},
		{"stop, empty", []string{"stop", ""}, exit.Usage},
		{"status, escapes", []string{"status", "\x1b[31m"}, exit.NotFound},
		{"stop, far number", []string{"stop", "/dev/ublkb99999999999999999999"}, exit.NotFound},
		{"stop, other number", []string{"stop", "-1"}, exit.Usage},
		{"start, a name with an escape", []string{"start", "\x1b[31m"}, exit.NotFound},
		{"unknown verb", []string{"\x1b[31m\n"}, exit.Usage},
		{"unknown flag", []string{"list", "--\x1b[31m\n"}, exit.Usage},
	} {
		refusedWith(t, c.what, withLimit(t, c.args...), c.code)
	}
}

// TestOddNames: disks and sets may have any name. It is shown in one line, and JSON stays valid.
func TestOddNames(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	diskFile(t, 1<<20) // skips where there is no direct I/O
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{
		"a b", "new\nline", "\x1b[31mred", `q"u'o`, "%d%s", "\xff\xfe", "-n", "--yes",
		strings.Repeat("n", 255), "\u202e", "*?[x]", "a\\b", " ",
	} {
		must(t, os.WriteFile(name, nil, 0o600))
		must(t, os.Truncate(name, hostileSize))
		r := withLimit(t, "create", "--json", "--spare", "1MiB", "--", name)
		var c created
		if err := json.Unmarshal([]byte(r.out), &c); r.code != 0 || err != nil ||
			!utf8.ValidString(r.out) {
			t.Errorf("%q: exit code %d, %v: %s%s", name, r.code, err, r.out, r.err)
			continue
		}
		if utf8.ValidString(name) && c.Backing != filepath.Join(dir, name) {
			t.Errorf("%q: %q", name, c.Backing)
		}
		before := sum(t, name)
		refusedWith(t, fmt.Sprintf("create over %.20q", name), withLimit(t, "create", "--", name),
			exit.Refused, "--force")
		if sum(t, name) != before {
			t.Errorf("%q was changed", name)
		}
		r = withLimit(t, "create", "--dry-run", "--force", "--", name)
		if r.code != 0 || strings.ContainsFunc(strings.ReplaceAll(r.out, "\n", ""),
			func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: exit code %d: %q", name, r.code, r.out)
		}
		must(t, os.Remove(name))
	}
	disk := diskFile(t, hostileSize)
	for _, name := range []string{
		"", ".", "..", "-x", "a/b", "/", "a b", "a\tb", "a\nb", "\x1b[31m", "\xff", "a\x00b",
		"\u009b31m", "\u202e", "\u200b", "\ufeff", strings.Repeat("ü", 33),
	} {
		if name == "" {
			continue // create then makes a name
		}
		refusedWith(t, fmt.Sprintf("--name %.20q", name), withLimit(t, "create", disk,
			"--name="+name), exit.Usage)
	}
	for _, name := range []string{"a", "ümläut", "日本", strings.Repeat("x", 64), "0", "%s", `a"b'c`,
		"*", "a\\b", "$(id)"} {
		var c created
		must(t, json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--force", "--yes", "--json",
			"--name", name).out), &c))
		if c.Name != name {
			t.Errorf("%q became %q", name, c.Name)
		}
	}
}

// TestFilesThatAreNoDisks: files that cannot be disks, or must not be used as disks.
func TestFilesThatAreNoDisks(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	for _, c := range []struct {
		what string
		make func(path string) error
		code int
		says []string
	}{
		{"empty", func(p string) error { return os.Truncate(p, 0) }, exit.Usage,
			[]string{"too small"}},
		{"one byte", func(p string) error { return os.Truncate(p, 1) }, exit.Usage,
			[]string{"too small"}},
		{"one block", func(p string) error { return os.Truncate(p, 4096) }, exit.Usage,
			[]string{"too small"}},
		{"just too small", func(p string) error { return os.Truncate(p, 1<<20) }, exit.Usage,
			[]string{"too small"}},
		{"mode 0444", func(p string) error { return os.Chmod(p, 0o444) }, exit.Refused,
			[]string{"read-only", "0444"}},
		{"mode 0000", func(p string) error { return os.Chmod(p, 0) }, exit.Refused,
			[]string{"read-only"}},
	} {
		disk := diskFile(t, hostileSize)
		must(t, c.make(disk))
		if os.Geteuid() != 0 && c.what == "mode 0000" {
			continue
		}
		before := sum(t, disk)
		refusedWith(t, "create "+c.what, withLimit(t, "create", disk, "--force", "--yes"), c.code,
			append(c.says, disk)...)
		if sum(t, disk) != before {
			t.Errorf("%s: it was changed", c.what)
		}
	}
	// These are unusual, but possible.
	for _, size := range []int64{hostileSize + 1, hostileSize + 511, hostileSize + 4095,
		hostileSize + 12288} {
		disk := diskFile(t, size)
		mustRun(t, 0, "create", disk)
		mustRun(t, 0, "metadata", "check", disk)
	}
}

// TestDisksInUse: a disk that is in use, in whatever way, is not changed, not even with --force.
func TestDisksInUse(t *testing.T) {
	vmtest.NeedRoot(t)
	vmtest.NeedTools(t, "mkfs.ext4", "dmsetup")
	useRuntimeDir(t)
	const dm = "below a dm device" // some machines have no device mapper
	mkfs := func(t *testing.T, dev string) { vmtest.Run(t, "mkfs.ext4", "-q", "-F", dev) }
	mount := func(t *testing.T, dev string, flags uintptr) string {
		dir := t.TempDir()
		if err := unix.Mount(dev, dir, "ext4", flags, ""); err != nil {
			t.Skipf("cannot mount here: %v", err)
		}
		t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
		return dir
	}
	for _, c := range []struct {
		what string
		// make returns the path to name and the path whose contents must not change.
		make func(t *testing.T) (string, string)
		code int
		says []string
	}{
		{"mounted", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			mkfs(t, dev)
			mount(t, dev, unix.MS_RDONLY)
			return dev, dev
		}, exit.Refused, []string{"in use", "mounted on"}},
		{"mounted, by a link", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			mkfs(t, dev)
			mount(t, dev, unix.MS_RDONLY)
			link := filepath.Join(t.TempDir(), "by-id")
			must(t, os.Symlink(dev, link))
			return link, dev
		}, exit.Refused, []string{"in use", "mounted on"}},
		{"mounted, by a node of one's own", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			mkfs(t, dev)
			mount(t, dev, unix.MS_RDONLY)
			var st unix.Stat_t
			must(t, unix.Stat(dev, &st))
			node := filepath.Join(t.TempDir(), "node")
			must(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev)))
			if f, err := os.Open(node); err != nil {
				t.Skipf("no device nodes here: %v", err)
			} else {
				f.Close()
			}
			return node, dev
		}, exit.Refused, []string{"in use", "mounted on"}},
		{"the file of a mounted loop", func(t *testing.T) (string, string) {
			file := diskFile(t, hostileSize)
			dev := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
			mkfs(t, dev)
			mount(t, dev, unix.MS_RDONLY)
			return file, file
		}, exit.Refused, []string{"in use", "the file of /dev/loop"}},
		{"the file of an idle loop", func(t *testing.T) (string, string) {
			file := diskFile(t, hostileSize)
			vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
			return file, file
		}, exit.Refused, []string{"in use", "the file of /dev/loop"}},
		{"a hard link of a loop's file", func(t *testing.T) (string, string) {
			file := diskFile(t, hostileSize)
			vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
			must(t, os.Link(file, file+".2"))
			return file + ".2", file
		}, exit.Refused, []string{"in use", "the file of /dev/loop"}},
		{"a second loop over a mounted file", func(t *testing.T) (string, string) {
			file := diskFile(t, hostileSize)
			dev := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
			mkfs(t, dev)
			mount(t, dev, unix.MS_RDONLY)
			return vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file}), file
		}, exit.Refused, []string{"in use", "/dev/loop"}},
		{"a loop over a mounted loop", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			mkfs(t, dev)
			mount(t, dev, unix.MS_RDONLY)
			return vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: dev}), dev
		}, exit.Refused, []string{"in use", "/dev/loop"}},
		{dm, func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n", hostileSize/512, dev))
			return dev, dev
		}, exit.Refused, []string{"in use", "held by /dev/dm-"}},
		{"swap space", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			// union swap_header, include/linux/swap.h: version, last page; the mark.
			page := make([]byte, 4096)
			binary.LittleEndian.PutUint32(page[1024:], 1)
			binary.LittleEndian.PutUint32(page[1028:], hostileSize/4096-1)
			copy(page[4086:], "SWAPSPACE2")
			must(t, os.WriteFile(dev, page, 0))
			name, err := unix.BytePtrFromString(dev)
			must(t, err)
			if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(name)), 0,
				0); errno != 0 {
				t.Skipf("no swap here: %v", errno)
			}
			t.Cleanup(func() {
				if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(name)), 0,
					0); errno != 0 {
					t.Error("swapoff: ", errno)
				}
			})
			return dev, ""
		}, exit.Refused, []string{"in use", "swap space"}},
		{"read-only loop", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{ReadOnly: true})
			return dev, dev
		}, exit.Refused, []string{"read-only"}},
		{"blockdev --setro", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			f, err := os.Open(dev)
			must(t, err)
			defer f.Close()
			must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1))
			t.Cleanup(func() {
				// The driver keeps it for the next file.
				f, err := os.Open(dev)
				must(t, err)
				defer f.Close()
				must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0))
			})
			return dev, dev
		}, exit.Refused, []string{"read-only"}},
		{"on a read-only file system", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			mkfs(t, dev)
			dir := mount(t, dev, 0)
			file := filepath.Join(dir, "disk")
			must(t, os.WriteFile(file, nil, 0o600))
			must(t, os.Truncate(file, 6<<20))
			must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			return file, file
		}, exit.Refused, []string{"read-only"}},
		{"MD member, not assembled", func(t *testing.T) (string, string) {
			dev := vmtest.NewLoop(t, hostileSize, vmtest.LoopOptions{})
			f, err := os.OpenFile(dev, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("\xfc\x4e\x2b\xa9\x01\x00\x00\x00"), 4096)
			must(t, err)
			must(t, f.Close())
			return dev, dev
		}, exit.Refused, []string{"linux_raid_member 1.2", "--force"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.what != dm {
				anywhere(t)
			}
			path, stays := c.make(t)
			before := ""
			if stays != "" {
				before = sum(t, stays)
			}
			args := []string{"create", path, "--force", "--yes"}
			if strings.HasPrefix(c.what, "MD") {
				args = args[:2] // with --force it would succeed
			}
			refusedWith(t, c.what, withLimit(t, args...), c.code, c.says...)
			refusedWith(t, c.what+", dry", withLimit(t, append(args, "--dry-run")...), c.code,
				c.says...)
			spare := diskFile(t, hostileSize)
			was := sum(t, spare)
			refusedWith(t, c.what+", as a spare",
				withLimit(t, append([]string{args[0], spare, "--spare-device", path},
					args[2:]...)...), c.code, c.says...)
			if sum(t, spare) != was || stays != "" && sum(t, stays) != before {
				t.Error("something was changed")
			}
		})
	}
}

// TestPartsOfALoop: partitions, and loop devices over parts of one file, do not conflict.
func TestPartsOfALoop(t *testing.T) {
	vmtest.NeedRoot(t)
	vmtest.NeedTools(t, "losetup")
	useRuntimeDir(t)
	file := diskFile(t, 2*hostileSize)
	var parts []string
	for i := range 2 {
		out, err := exec.Command("losetup", "--find", "--show", "--offset",
			fmt.Sprint(i*hostileSize), "--sizelimit", fmt.Sprint(hostileSize),
			file).CombinedOutput()
		if err != nil {
			t.Skipf("losetup: %v: %s", err, out)
		}
		dev := strings.TrimSpace(string(out))
		t.Cleanup(func() { vmtest.Run(t, "losetup", "-d", dev) })
		parts = append(parts, dev)
	}
	mustRun(t, 0, "create", parts[0], "--spare-device", parts[1])
	mustRun(t, 0, "metadata", "check", parts[0])
	refusedWith(t, "the file of two loops", withLimit(t, "create", file, "--force", "--yes"),
		exit.Refused, "the file of /dev/loop")
}

// TestDiskChanges: a disk whose size has changed since it was prepared.
func TestDiskChanges(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	larger := diskFile(t, hostileSize)
	mustRun(t, 0, "create", larger, "--name", "larger")
	must(t, os.Truncate(larger, 2*hostileSize))
	mustRun(t, 0, "metadata", "check", larger)

	smaller := diskFile(t, hostileSize)
	mustRun(t, 0, "create", smaller, "--name", "smaller")
	must(t, os.Truncate(smaller, hostileSize-(1<<20)))
	before := sum(t, smaller)
	r := withLimit(t, "metadata", "check", smaller)
	t.Logf("check: %d %s", r.code, r.err)
	if r.code != exit.Damaged && r.code != exit.Refused {
		t.Errorf("a disk that has shrunk: exit code %d: %s%s", r.code, r.out, r.err)
	}
	if sum(t, smaller) != before {
		t.Error("it was changed")
	}
}

// TestCopyOfADisk: a disk and its copy have the same name and UUID. A command with that name is
// refused, and the message names both.
func TestCopyOfADisk(t *testing.T) {
	vmtest.NeedRoot(t)
	useRuntimeDir(t)
	file := diskFile(t, hostileSize)
	name := fmt.Sprintf("copied-%d", os.Getpid())
	mustRun(t, 0, "create", file, "--name", name)
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file+".copy", data, 0o600))
	a := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
	b := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file + ".copy"})
	refusedWith(t, "start NAME of a disk and its copy", withLimit(t, "start", name), exit.Refused,
		a, b)
	// One disk by two paths is refused as well.
	c := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
	refusedWith(t, "start NAME, three ways", withLimit(t, "start", name), exit.Refused, a, b, c)
}
