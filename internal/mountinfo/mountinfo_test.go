package mountinfo

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	t.Parallel()
	got := Parse("22 1 0:9 / /dev rw shared:2 - devtmpfs udev rw\n" +
		"36 22 98:7 /mnt /mnt/a\\040b\\134c rw,noatime master:1 - ext3 /dev/root " +
		"rw,errors=continue\n" +
		"nonsense\n40 1 0:3 - tmpfs\n41 1 x:3 / /y rw - tmpfs none rw\n")
	want := []Mount{
		{Dev: unix.Mkdev(0, 9), Root: "/", Point: "/dev", Type: "devtmpfs", Source: "udev",
			Options: "rw"},
		{Dev: unix.Mkdev(98, 7), Root: "/mnt", Point: `/mnt/a b\c`, Type: "ext3",
			Source: "/dev/root", Options: "rw,errors=continue"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestLongLine: a line of any length does not hide those behind it.
func TestLongLine(t *testing.T) {
	t.Parallel()
	got := Parse("1 2 0:50 / /a rw - overlay overlay lowerdir=" + strings.Repeat("/x:", 100_000) +
		"\nnonsense\n3 4 8:1 / /b rw shared:1 - ext4 /dev/sda1 rw\n")
	if len(got) != 2 || got[1].Point != "/b" || got[1].Source != "/dev/sda1" {
		t.Errorf("%d mounts: %+v", len(got), got[max(0, len(got)-1):])
	}
}

// TestRead: this process has a root mount.
func TestRead(t *testing.T) {
	t.Parallel()
	all, err := Read(Self)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(m Mount) bool { return m.Point == "/" && m.Type != "" }) {
		t.Errorf("no root in %+v", all)
	}
	if _, err := Read("/proc/0"); err == nil {
		t.Error("mounts of no process")
	}
}

func TestUnescape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`/a\040b`: "/a b", `\`: `\`, `\04`: `\04`, `\040`: " ", `\777`: `\777`, `\x40`: `\x40`,
		`\134040`: `\040`, "": "",
	} {
		if got := Unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzParse reads texts that the kernel prints, and others.
func FuzzParse(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add("36 35 0:40 / /x rw - btrfs /dev/sda1 rw\n36 35 8:1")
	f.Add("8:4294967295\n")
	f.Add(`a\777\18\1`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range Parse(text) {
			if m.Point == "" || m.Type == "" {
				t.Fatalf("%+v", m)
			}
		}
		if dev, ok := ParseDev(text); ok && !strings.Contains(text, ":") {
			t.Fatal(dev)
		}
		if s := Unescape(text); len(s) > len(text) {
			t.Fatalf("%q", s)
		}
	})
}
