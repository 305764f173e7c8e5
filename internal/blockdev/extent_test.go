package blockdev

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestExtentOfWhatToolsWrite makes file systems that are smaller than their disk, and checks how
// far they reach.
func TestExtentOfWhatToolsWrite(t *testing.T) {
	const size, part = 420 << 20, 330 << 20
	kb := strconv.Itoa(part / 1024)
	for _, c := range []struct {
		name string
		args []string // {} is the disk
		want int64
		part int64 // the size that the tool sees; 0: the argument gives it
	}{
		{"ext2", []string{"mkfs.ext2", "-q", "-F", "-b", "1024", "{}", kb}, part, 0},
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-O", "64bit", "{}", kb}, part, 0},
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-O", "^64bit", "-b", "4096", "{}", kb + "K"},
			part, 0},
		{"xfs", []string{"mkfs.xfs", "-q", "-f", "-d", "size=" + strconv.Itoa(part), "{}"}, part,
			0},
		{"btrfs", []string{"mkfs.btrfs", "-q", "-f", "-b", strconv.Itoa(part), "{}"}, part, 0},
		{"vfat", []string{"mkfs.vfat", "-F", "32", "{}"}, part, part},
		{"f2fs", []string{"mkfs.f2fs", "-q", "{}"}, part, part},
		{"swap", []string{"mkswap", "-q", "{}"}, part, part},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				t.Skip(err)
			}
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			shown := c.part
			if shown == 0 {
				shown = size
			}
			if err := os.Truncate(path, shown); err != nil {
				t.Fatal(err)
			}
			args := append([]string(nil), c.args[1:]...)
			for i := range args {
				if args[i] == "{}" {
					args[i] = path
				}
			}
			if out, err := exec.Command(c.args[0], args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			found := Detect(f, size)
			if len(found.Signatures) != 1 {
				t.Fatalf("found %v", found.Signatures)
			}
			e, ok := ExtentOf(f, size, 512, found.Signatures[0])
			// Tools round down to their own units, which are at most a few MiB.
			if !ok || e.End > c.want || e.End < c.want-4<<20 {
				t.Errorf("%s ends at %d, %v, want %d", found.Signatures[0], e.End, ok, c.want)
			}
		})
	}
}

// TestExtentOfBytes checks the formats whose tools are rare, and nonsense.
func TestExtentOfBytes(t *testing.T) {
	const size = 8 << 20
	le64 := func(v uint64) string { return string(binary.LittleEndian.AppendUint64(nil, v)) }
	le32 := func(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }
	for _, c := range []struct {
		name  string
		write func([]byte)
		want  int64
	}{
		{"exfat", all(put(3, "EXFAT   "), put(72, le64(1000)), put(108, "\x09")), 512000},
		{"exfat", all(put(3, "EXFAT   "), put(72, le64(1<<62)), put(108, "\x09")), 0},
		{"ntfs", all(put(3, "NTFS    "), put(11, "\x00\x02"), put(0x28, le64(999)),
			put(510, "\x55\xaa")), 512000},
		{"ntfs", all(put(3, "NTFS    "), put(510, "\x55\xaa")), 0},
		{"f2fs", all(put(1024, "\x10\x20\xf5\xf2"), put(1024+16, le32(12)),
			put(1024+36, le64(100))), 409600},
		{"f2fs", all(put(1024, "\x10\x20\xf5\xf2"), put(1024+16, le32(77)),
			put(1024+36, le64(100))), 0},
		{"LVM2_member", all(put(512, "LABELONE"), put(532, le32(32)), put(536, "LVM2 001"),
			put(512+64, le64(4<<20))), 4 << 20},
		{"LVM2_member", all(put(512, "LABELONE"), put(532, le32(1<<31)), put(536, "LVM2 001")), 0},
		{"swap", all(put(4086, "SWAPSPACE2"), put(1024, le32(1)), put(1028, le32(99))), 409600},
		{"swap", all(put(65526, "SWAPSPACE2"), put(1024, le32(1)), put(1028, le32(9))), 655360},
		{"ext2", all(put(1080, "\x53\xef"), put(1028, le32(1000)), put(1048, le32(2))), 4096000},
		{"xfs", put(0, "XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00"), 1 << 20},
		{"xfs", put(0, "XFSB"), 0},
		{"btrfs", all(put(65600, "_BHRfS_M"), put(65536+0xd1, le64(5<<20))), 5 << 20},
		{"dos", all(put(510, "\x55\xaa"),
			put(446, "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00")),
			6144 * 512},
		{"iso9660", put(32769, "CD001"), 0},
		{"crypto_LUKS", put(0, "LUKS\xba\xbe"), 0},
	} {
		m := &image{b: make([]byte, size)}
		c.write(m.b)
		f := Detect(m, size)
		if len(f.Signatures) != 1 || f.Signatures[0].Name != c.name {
			t.Errorf("%s: found %v", c.name, f.Signatures)
			continue
		}
		e, ok := ExtentOf(m, size, 512, f.Signatures[0])
		if ok != (c.want != 0) || ok && e.End != c.want {
			t.Errorf("%s ends at %d, %v, want %d", c.name, e.End, ok, c.want)
		}
	}
}
