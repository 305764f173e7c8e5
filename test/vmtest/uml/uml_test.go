package uml

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/machine"
)

func TestCommand(t *testing.T) {
	m := &Machine{Kernel: &kernel.Kernel{Image: "/k/linux", UserMode: true}}
	g := &machine.Guest{Initrd: "/i", Dir: "/g", MemoryMiB: 512, CPUs: 4, Append: "debug quiet",
		Disks: []machine.Disk{{Path: "/d", BlockSize: 512}}}
	c, err := m.Command(g)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mem=512M", "initrd=/i", "uml_dir=/g", "ncpus=1", "seccomp=on",
		"con0=null,fd:6", "rootfstype=tmpfs", "rdinit=/init",
		"ssl0=null,fd:3", "ssl2=null,fd:5", "vmexec.ports=ttyS0,ttyS1,ttyS2", "ubd0=/d", "debug"} {
		if !slices.Contains(c.Args, want) {
			t.Errorf("no %q in %q", want, c.Args)
		}
	}
	if c.Path != "/k/linux" {
		t.Errorf("path %s", c.Path)
	}
	g.Disks[0].BlockSize = 4096
	if _, err := m.Command(g); !errors.Is(err, ErrDisk) {
		t.Errorf("a disk with blocks of 4096 bytes: %v", err)
	}
}

// If the guest has more memory than any host, the file is on the disk.
func TestMemoryDir(t *testing.T) {
	if got := memoryDir(&machine.Guest{Dir: "/g", MemoryMiB: 1 << 40}); got != "/g" {
		t.Error(got)
	}
}

func TestUnmet(t *testing.T) {
	want := "# a comment\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=n\n" +
		"CONFIG_E=\"fd:0,fd:1\"\nCONFIG_F=3\n"
	got := "CONFIG_A=y\nCONFIG_B=y\nCONFIG_D=y\nCONFIG_E=\"fd:0,fd:1\"\n# CONFIG_F is not set\n"
	if missed := unmet([]byte(want), []byte(got)); !slices.Equal(missed,
		[]string{"CONFIG_B=m", "CONFIG_D=n", "CONFIG_F=3"}) {
		t.Errorf("%q", missed)
	}
	if missed := unmet(config, config); len(missed) != 0 {
		t.Errorf("the configuration contradicts itself: %q", missed)
	}
}

// A kernel in the cache is used as it is. One with another configuration is used too, with a
// message. If there is none, the error says what to do.
func TestGet(t *testing.T) {
	cache := t.TempDir()
	var said []string
	logf := func(format string, _ ...any) { said = append(said, format) }
	if _, err := Get(cache, logf); !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(),
		"make uml") {
		t.Errorf("an empty cache: %v", err)
	}
	for _, tc := range []struct {
		name  string
		quiet bool
	}{{"7.3.4-uml-" + stamp("a.deb"), true}, {"7.3.4-uml-00000000", false}} {
		dir := filepath.Join(cache, "kernels", tc.name)
		modules := filepath.Join(dir, "lib/modules/7.3.4-uml")
		if err := os.MkdirAll(modules, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{filepath.Join(dir, "linux"): "",
			filepath.Join(modules, "modules.dep"): "", filepath.Join(dir, "source"): "a.deb"} {
			if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := kernel.ReplaceLink(tc.name, filepath.Join(cache, "kernels", Name)); err != nil {
			t.Fatal(err)
		}
		said = nil
		k, err := Get(cache, logf)
		if err != nil || !k.UserMode || k.Release != "7.3.4-uml" ||
			filepath.Base(k.Image) != "linux" || tc.quiet != (len(said) == 0) {
			t.Errorf("%s: %+v, %v, said %q", tc.name, k, err, said)
		}
	}
}

func TestWithoutMake(t *testing.T) {
	if got := withoutMake([]string{"A=1", "MAKEFLAGS=-j", "KERNEL=uml", "MAKELEVEL=1",
		"PATH=/bin"}); !slices.Equal(got, []string{"A=1", "PATH=/bin"}) {
		t.Errorf("%q", got)
	}
}
