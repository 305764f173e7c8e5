package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func fakeModules(t *testing.T) *Modules {
	t.Helper()
	dir := t.TempDir()
	for name, contents := range map[string]string{
		"modules.dep": `kernel/drivers/block/ublk_drv.ko.xz:
kernel/drivers/md/dm-mod.ko.xz: kernel/drivers/dax/dax.ko.xz
kernel/drivers/md/dm-flakey.ko.xz: kernel/drivers/md/dm-mod.ko.xz kernel/drivers/dax/dax.ko.xz
kernel/drivers/dax/dax.ko.xz:
kernel/fs/xfs/xfs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
`,
		"modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
		"modules.alias": "# a comment\nalias fs-xfs xfs\nalias pci:v00001AF4d* " +
			"virtio_pci\nalias dm-error dm_mod\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := ReadModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestClosure(t *testing.T) {
	m := fakeModules(t)
	const dax, dm, flakey = "kernel/drivers/dax/dax.ko.xz", "kernel/drivers/md/dm-mod.ko.xz",
		"kernel/drivers/md/dm-flakey.ko.xz"
	const xfs, crc = "kernel/fs/xfs/xfs.ko.xz", "kernel/lib/libcrc32c.ko.xz"
	for _, tc := range []struct {
		names, want []string
	}{
		{[]string{"ublk_drv"}, []string{"kernel/drivers/block/ublk_drv.ko.xz"}},
		{[]string{"ublk-drv"}, []string{"kernel/drivers/block/ublk_drv.ko.xz"}},
		{[]string{"dm_flakey"}, []string{dax, dm, flakey}},
		{[]string{"dm-mod", "dm-flakey", "dm-mod"}, []string{dax, dm, flakey}},
		{[]string{"ext4"}, nil},
		{[]string{"fs-xfs", "ext4"}, []string{crc, xfs}},
		{[]string{"dm-error"}, []string{dax, dm}},
	} {
		got, err := m.Closure(tc.names...)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%v: %v, %v; want %v", tc.names, got, err, tc.want)
		}
	}
	if _, err := m.Closure("ublk_drv", "dm-dust"); !errors.Is(err, ErrNoModule) {
		t.Errorf("dm-dust: %v, want ErrNoModule", err)
	}
	if !m.Has("ext4") || m.Has("zfs") {
		t.Error("Has is wrong about ext4 or zfs")
	}
}

func TestModuleName(t *testing.T) {
	for path, want := range map[string]string{
		"kernel/drivers/md/dm-mod.ko.xz": "dm_mod",
		"kernel/fs/ext4/ext4.ko":         "ext4",
		"kernel/a/b.ko.zst":              "b",
		"null_blk":                       "null_blk",
	} {
		if got := ModuleName(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	names := []string{
		"linux-image-6.12.101+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64",
		"linux-image-6.12.99+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64-dbg",
		"linux-image-6.12.117+deb12-cloud-amd64-unsigned",
		"linux-headers-6.12.117+deb12-cloud-amd64",
		"linux-image-6.12.117+deb12-rt-amd64", "linux-image-6.12-cloud-amd64",
		"linux-image-6.1.0-50-cloud-amd64",
		"linux-image-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.4+deb13-cloud-amd64",
		"linux-modules-7.3.4+deb13-cloud-amd64", "linux-base-7.3.4+deb13-cloud-amd64",
		"linux-binary-unsigned-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.2+deb13-cloud-amd64",
		"linux-image-cloud-amd64",
	}
	for series, want := range map[string][]string{
		"6.12": {"linux-image-6.12.117+deb12-cloud-amd64"},
		"7.3": {"linux-image-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.4+deb13-cloud-amd64",
			"linux-modules-7.3.4+deb13-cloud-amd64", "linux-base-7.3.4+deb13-cloud-amd64"},
		"6.1": nil,
		"8.0": nil,
	} {
		if got := choose(names, series); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
}

// Both ways in which Debian packs a kernel end in the same layout.
func TestArrange(t *testing.T) {
	for name, files := range map[string][]string{
		"one package": {"boot/vmlinuz-9.9.9", "boot/config-9.9.9",
			"lib/modules/9.9.9/kernel/a.ko"},
		"several packages": {"usr/lib/modules/9.9.9/vmlinuz", "usr/lib/modules/9.9.9/kernel/a.ko"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
			for _, f := range files {
				f = filepath.Join(raw, f)
				if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(f, []byte(filepath.Base(f)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			release, err := arrange(raw, out)
			if err != nil || release != "9.9.9" {
				t.Fatalf("release %q, %v", release, err)
			}
			if _, err := Open(out); !errors.Is(err, ErrNotAKernel) {
				t.Errorf("without modules.dep: %v, want ErrNotAKernel", err)
			}
			dep := filepath.Join(out, "lib/modules/9.9.9/modules.dep")
			if err := os.WriteFile(dep, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			k, err := Open(out)
			if err != nil || k.Release != "9.9.9" {
				t.Fatalf("%+v, %v", k, err)
			}
			if _, err := os.Stat(filepath.Join(k.ModuleDir, "kernel/a.ko")); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := arrange(t.TempDir(), t.TempDir()); !errors.Is(err, ErrNotAKernel) {
		t.Errorf("empty packages: %v, want ErrNotAKernel", err)
	}
}

func TestGetRefusesNonsense(t *testing.T) {
	for _, name := range []string{"", "7", "7.", "7.3.4", "seven", "../x", "7.3 "} {
		if k, err := Get(t.TempDir(), name, false, t.Logf); err == nil {
			t.Errorf("%q: %+v", name, k)
		}
	}
}

// The lock excludes: what one holder does in several steps, no other sees half done.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	const workers, rounds = 4, 50
	done := make(chan error, workers)
	file := filepath.Join(dir, "counter")
	if err := os.WriteFile(file, []byte{0}, 0o644); err != nil {
		t.Fatal(err)
	}
	for range workers {
		go func() {
			for range rounds {
				unlock, err := Lock(dir, "lock")
				if err != nil {
					done <- err
					return
				}
				b, err := os.ReadFile(file)
				if err == nil {
					b[0]++
					err = os.WriteFile(file, b, 0o644)
				}
				unlock()
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range workers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || int(b[0]) != workers*rounds {
		t.Errorf("counted %v (%v), want %d", b, err, workers*rounds)
	}
}
