package qemu

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/machine"
)

func TestArgs(t *testing.T) {
	m := &Machine{Kernel: &kernel.Kernel{Image: "/k/vmlinuz"}, Accel: TCG}
	g := &machine.Guest{Initrd: "/i", MemoryMiB: 512, CPUs: 3, Append: "debug",
		Console: "/a,b/console", Disks: []machine.Disk{{Path: "/d,0", BlockSize: 512},
			{Path: "/d1", BlockSize: 4096}}}
	args := strings.Join(m.args(g), " ")
	for _, want := range []string{"-accel tcg,thread=single", "-cpu max,-cx16", "-smp 3", "-m 512",
		"-kernel /k/vmlinuz", "oops=panic panic=-1",
		"rdinit=/init debug", "path=/a,,b/console", "file=/d,,0",
		"drive=d1,logical_block_size=4096,physical_block_size=4096",
		"nr=1,chardev=p0,name=vmexec.out", "nr=3,chardev=p2,name=vmexec.res", "id=p2,fd=5"} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in %s", want, args)
		}
	}
	m.Parallel = true
	if args := m.args(g); !slices.Contains(args, "tcg,thread=multi") {
		t.Errorf("in parallel: %q", args)
	}
	m.Accel = KVM
	if args := m.args(g); !slices.Contains(args, "kvm") || slices.Contains(args, "max,-cx16") {
		t.Errorf("under KVM: %q", args)
	}
}

func TestNoQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	m := &Machine{Kernel: &kernel.Kernel{}}
	if _, err := m.Command(&machine.Guest{}); !errors.Is(err, ErrNoQEMU) {
		t.Errorf("%v, want ErrNoQEMU", err)
	}
}

// KVM is tried once, and the verdict stays; an interrupted trial is none.
func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name  string
		trial error
		want  string
	}{{"works", nil, KVM}, {"does not", errors.New("no boot"), TCG}} {
		t.Run(tc.name, func(t *testing.T) {
			dir, trials := t.TempDir(), 0
			trial := func(context.Context) error { trials++; return tc.trial }
			for range 3 {
				if got, err := decide(t.Context(), dir, trial, t.Logf); err != nil ||
					got != tc.want {
					t.Errorf("%s, %v; want %s", got, err, tc.want)
				}
			}
			if trials != 1 {
				t.Errorf("%d trials", trials)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		interrupted := func(ctx context.Context) error { cancel(); return ctx.Err() }
		if got, err := decide(ctx, dir, interrupted, t.Logf); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, %v; want context.Canceled", got, err)
		}
		if got, err := decide(t.Context(), dir, func(context.Context) error { return nil },
			t.Logf); err != nil || got != KVM {
			t.Errorf("the next time: %s, %v", got, err)
		}
	})
}
