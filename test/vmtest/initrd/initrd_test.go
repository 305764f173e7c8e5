package initrd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cavaliergopher/cpio"

	"ublkremap/test/vmtest/kernel"
)

// contents reads an archive: path → contents, "dir" or "→ target"; the order
// of the paths besides.
func contents(t *testing.T, r io.Reader) (map[string]string, []string) {
	t.Helper()
	got := map[string]string{}
	var order []string
	for c := cpio.NewReader(r); ; {
		h, err := c.Next()
		if errors.Is(err, io.EOF) {
			return got, order
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got[h.Name]; ok {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		order = append(order, h.Name)
		switch h.Mode &^ cpio.ModePerm {
		case cpio.TypeDir:
			got[h.Name] = "dir"
		case cpio.TypeDir | cpio.ModeSticky:
			got[h.Name] = "sticky dir"
		case cpio.TypeSymlink:
			got[h.Name] = "→ " + h.Linkname
		default:
			b, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			got[h.Name] = string(b)
		}
	}
}

func TestArchive(t *testing.T) {
	src := t.TempDir()
	for name, data := range map[string]string{"testdata/a": "A", "testdata/sub/b": "B",
		"script": "#!/bin/sh\n"} {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(src, "testdata/link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	a := NewArchive(&b)
	for _, err := range []error{
		a.Layout(),
		a.Tree(filepath.Join(src, "testdata"), "/pkg/testdata"),
		a.File(filepath.Join(src, "script"), "/bin/tool"),
		a.Bytes("/pkg/testdata/a", 0o644, []byte("a second one")),
		a.Bytes("/odd", 0o600, []byte("123")),
		a.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, order := contents(t, &b)
	for name, want := range map[string]string{
		"bin": "→ usr/bin", "lib64": "→ usr/lib64", "usr/bin": "dir", "tmp": "sticky dir",
		"pkg/testdata/a": "A", "pkg/testdata/sub/b": "B", "pkg/testdata/link": "→ a",
		"usr/bin/tool": "#!/bin/sh\n", "odd": "123",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	// The kernel makes no directories on the way.
	for i, name := range order {
		if dir := filepath.Dir(name); dir != "." && slices.Index(order, dir) > i {
			t.Errorf("%s comes before its directory", name)
		}
	}
}

func TestConcatAligns(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	for _, p := range []struct{ name, data string }{{one, "12345"}, {two, "abcd"}} {
		if err := os.WriteFile(p.name, []byte(p.data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := Concat(&b, one, two); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != "12345\x00\x00\x00abcd" {
		t.Errorf("%q", got)
	}
}

func TestParseLdd(t *testing.T) {
	got, err := parseLdd([]byte("\tlinux-vdso.so.1 (0x00007ffd)\n" +
		"\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n" +
		"\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"))
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseLdd([]byte("\tlibx.so.1 => not found\n")); !errors.Is(err,
		ErrMissingLibrary) {
		t.Errorf("%v, want ErrMissingLibrary", err)
	}
}

// A dynamic program comes with its loader and libraries, a script with its
// interpreter.
func TestNeeds(t *testing.T) {
	sh, err := Needs("/bin/sh")
	if err != nil || len(sh) < 2 {
		t.Fatalf("/bin/sh needs %v, %v", sh, err)
	}
	script := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(script, []byte("#!/bin/sh -e\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Needs(script)
	if err != nil || !slices.Equal(got, append([]string{"/bin/sh"}, sh...)) {
		t.Errorf("a script needs %v, %v", got, err)
	}
	if err := os.WriteFile(script, []byte("just data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Needs(script); err != nil || got != nil {
		t.Errorf("data needs %v, %v", got, err)
	}
}

func TestTools(t *testing.T) {
	dir := t.TempDir()
	first, err := Tools(dir, []string{"sh", "cat"})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Tools(dir, []string{"cat", "sh", "cat"})
	if err != nil || again != first {
		t.Errorf("the same tools in another order: %s, %v; want %s", again, err, first)
	}
	if after, err := os.Stat(again); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Error("the archive was built again")
	}
	f, err := os.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, _ := contents(t, f)
	if got["usr/bin/cat"] == "" || got["usr/bin/sh"] == "" {
		t.Error("a tool is not in its archive")
	}
	if _, err := Tools(dir, []string{"no-such-tool"}); !errors.Is(err, ErrNoTool) {
		t.Errorf("%v, want ErrNoTool", err)
	}
}

func TestBase(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	k := &kernel.Kernel{Release: "9.9.9", ModuleDir: dir}
	for name, data := range map[string]string{
		"modules.dep": "kernel/ublk_drv.ko.xz:\nkernel/dm-mod.ko.xz: " +
			"kernel/dax.ko.xz\nkernel/dax.ko.xz:\nkernel/unwanted.ko.xz:\n",
		"modules.builtin":         "kernel/ext4.ko\n",
		"modules.alias":           "",
		"kernel/ublk_drv.ko.xz":   "ublk",
		"kernel/dm-mod.ko.xz":     "dm",
		"kernel/dax.ko.xz":        "dax",
		"kernel/unwanted.ko.xz":   "unwanted",
		"kernel/placeholder.file": "",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(extra ...string) map[string]string {
		path, err := Base(cache, k, extra)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, _ := contents(t, f)
		return got
	}
	const at = "usr/lib/modules/9.9.9/"
	got := read()
	if got[at+"kernel/ublk_drv.ko.xz"] != "ublk" || got[at+"kernel/dax.ko.xz"] != "dax" ||
		got[at+"modules.dep"] == "" {
		t.Errorf("modules are missing: %q", got)
	}
	if _, ok := got[at+"kernel/unwanted.ko.xz"]; ok {
		t.Error("a module that nobody asked for is on board")
	}
	if got = read("unwanted"); got[at+"kernel/unwanted.ko.xz"] != "unwanted" {
		t.Error("a module that was asked for is not on board")
	}
	if _, err := Base(cache, k, []string{"zfs"}); !errors.Is(err, kernel.ErrNoModule) {
		t.Errorf("zfs: %v, want ErrNoModule", err)
	}
}
