package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const imageSize = 8<<20 + 3*512

// image is a blank disk of imageSize bytes that can have unreadable bytes.
type image struct {
	b   []byte
	bad []int64
}

func (m *image) ReadAt(p []byte, off int64) (int, error) {
	for _, b := range m.bad {
		if b >= off && b < off+int64(len(p)) {
			return 0, errors.New("medium error")
		}
	}
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func put(at int64, data string) func([]byte) {
	return func(b []byte) { copy(b[at:], data) }
}

func all(fs ...func([]byte)) func([]byte) {
	return func(b []byte) {
		for _, f := range fs {
			f(b)
		}
	}
}

func TestDetectKnowsEachMark(t *testing.T) {
	le := func(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }
	boot := all(put(11, "\x00\x02"), put(16, "\x02"), put(510, "\x55\xaa"))
	end := int64(imageSize)
	for _, c := range []struct {
		want  string
		atEnd bool
		write func([]byte)
	}{
		{"ext2", false, put(1080, "\x53\xef")},
		{"ext3", false, all(put(1080, "\x53\xef"), put(1024+92, "\x04"))},
		{"ext4", false, all(put(1080, "\x53\xef"), put(1024+96, "\x42"))},
		{"xfs", false, put(0, "XFSB")},
		{"btrfs", false, put(65600, "_BHRfS_M")},
		{"f2fs", false, put(1024, "\x10\x20\xf5\xf2")},
		{"vfat", false, all(boot, put(0x52, "FAT32   "))},
		{"vfat", false, all(boot, put(0x36, "FAT16   "))},
		{"exfat", false, put(3, "EXFAT   ")},
		{"ntfs", false, all(boot, put(3, "NTFS    "))},
		{"iso9660", false, put(32769, "CD001")},
		{"bcache", false, put(4096+24,
			"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")},
		{"zfs_member", false, put(128<<10+31<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00")},
		{"zfs_member", true, put(end&^(256<<10-1)-256<<10+130<<10,
			"\x00\x00\x00\x00\x00\xba\xb1\x0c")},
		{"swap", false, put(4086, "SWAPSPACE2")},
		{"swap", false, put(65526, "SWAPSPACE2")},
		{"LVM2_member", false, all(put(512, "LABELONE"), put(536, "LVM2 001"))},
		{"linux_raid_member 1.1", false, put(0, le(0xa92b4efc)+le(1))},
		{"linux_raid_member 1.2", false, put(4096, le(0xa92b4efc)+le(1))},
		{"linux_raid_member 1.0", true, put((end/512-16)&^7*512, le(0xa92b4efc)+le(1))},
		{"linux_raid_member 0.90", true, put(end&^65535-65536, le(0xa92b4efc)+le(0))},
		{"linux_raid_member 0.90", true, put(end&^65535-65536, "\xa9\x2b\x4e\xfc")},
		{"promise_fasttrack_raid_member", true, put(end-3087*512, "Promise Technology, Inc.")},
		{"promise_fasttrack_raid_member", true, put(end-63*512, "Promise Technology, Inc.")},
		{"lsi_mega_raid_member", true, put(end-512, "$XIDE$")},
		{"nvidia_raid_member", true, put(end-2*512, "NVIDIA")},
		{"hpt45x_raid_member", true, put(end-11*512, le(0x5a7816f3))},
		{"adaptec_raid_member", true, all(put(end-512, "\x37\xfc\x4d\x1e"), put(end-256, "DPTM"))},
		{"silicon_medley_raid_member", true, all(put(end-512+0x60, le(0x2f000000)),
			put(end-512+0x13e, le(-0x2f00&0xffff)))},
		{"bcachefs", true, put(end-1<<20+24,
			"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef")},
		{"crypto_LUKS", false, put(0, "LUKS\xba\xbe")},
		{"gpt", false, put(512, "EFI PART")},
		{"gpt", false, put(4096, "EFI PART")},
		{"gpt backup", true, put(end-512, "EFI PART")},
		{"dos", false, all(put(510, "\x55\xaa"),
			put(446, "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00"))},
		{"PMBR", false, all(put(510, "\x55\xaa"),
			put(446, "\x00\x00\x00\x00\xee\x00\x00\x00\x01\x00\x00\x00\x00\x08\x00\x00"))},
		{"dm-remap", false, put(0, le(0x444d5234))},
	} {
		m := &image{b: make([]byte, imageSize)}
		c.write(m.b)
		f := Detect(m, imageSize)
		if len(f.Signatures) != 1 || f.Signatures[0].Name != c.want ||
			f.Signatures[0].AtEnd != c.atEnd {
			t.Errorf("want %s (at end %v), got %v", c.want, c.atEnd, f.Signatures)
		}
		if f.Blank || len(f.Unread) > 0 {
			t.Errorf("%s: blank %v, unread %v", c.want, f.Blank, f.Unread)
		}
	}
}

// protected writes what the disk of a set begins with.
func protected(b []byte) {
	all(put(0, "BLKRMPS4"), put(510, "\x55\xaa"),
		put(446, "\x00\x00\x02\x00\xda\x00\x08\x00\x01\x00\x00\x00\xfe\x3f\x00\x00"))(b)
}

// TestProtects: only the partition of a set's own table is refused, and not what somebody else has
// written over it.
func TestProtects(t *testing.T) {
	for _, c := range []struct {
		write func([]byte)
		want  bool
	}{
		{protected, true},
		{put(510, "\x55\xaa"), false},
		{all(protected, put(0, "XFSB")), false},
		{all(protected, put(510, "\x00")), false},
		{all(protected, put(450, "\x83")), false}, // another type
		{all(protected, put(454, "\x3f")), false}, // another start
	} {
		b := make([]byte, maxBlock)
		c.write(b)
		if protects(b) != c.want {
			t.Errorf("want %v: % x", c.want, b[440:512])
		}
	}
}

func TestDetectFindsNothingByChance(t *testing.T) {
	f := Detect(&image{b: make([]byte, imageSize)}, imageSize)
	if len(f.Signatures) != 0 || !f.Blank {
		t.Errorf("a blank disk has %v, blank %v", f.Signatures, f.Blank)
	}
	for _, write := range []func([]byte){
		put(510, "\x55\xaa"),              // a boot sector without partitions
		put(4096, "\xfc\x4e\x2b\xa9\x07"), // MD's magic with a version that never existed
		put(512, "LABELONE"),              // an LVM1 label
		put(0x52, "FAT32   "),             // without a boot sector around it
		protected,
	} {
		m := &image{b: make([]byte, imageSize)}
		write(m.b)
		if f := Detect(m, imageSize); len(f.Signatures) != 0 {
			t.Errorf("found %v", f.Signatures)
		}
	}
	for _, size := range []int64{0, 512, 4096, 100 << 10} {
		if f := Detect(bytes.NewReader(make([]byte, size)), size); len(f.Signatures) != 0 ||
			!f.Blank {
			t.Errorf("size %d: %v, blank %v", size, f.Signatures, f.Blank)
		}
	}
}

func TestDetectGoesAroundUnreadablePlaces(t *testing.T) {
	m := &image{b: make([]byte, imageSize), bad: []int64{20}}
	f := Detect(m, imageSize)
	if !f.Blank || len(f.Unread) == 0 {
		t.Errorf("blank %v, unread %v", f.Blank, f.Unread)
	}
	put(65600, "_BHRfS_M")(m.b)
	m.bad = append(m.bad, 70000)
	f = Detect(m, imageSize)
	if f.Blank || len(f.Signatures) != 1 || f.Signatures[0].Name != "btrfs" {
		t.Errorf("blank %v, %v", f.Blank, f.Signatures)
	}
}

func TestDetectKnowsWhatToolsWrite(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"ext2", []string{"mkfs.ext2", "-q", "-F"}},
		{"ext3", []string{"mkfs.ext3", "-q", "-F"}},
		{"ext4", []string{"mkfs.ext4", "-q", "-F"}},
		{"xfs", []string{"mkfs.xfs", "-q", "-f"}},
		{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}},
		{"vfat", []string{"mkfs.vfat", "-F", "32"}},
		{"f2fs", []string{"mkfs.f2fs", "-q"}},
		{"swap", []string{"mkswap", "-q"}},
	} {
		t.Run(c.want, func(t *testing.T) {
			tool, err := exec.LookPath(c.args[0])
			if err != nil {
				t.Skipf("%s is not installed", c.args[0])
			}
			path := filepath.Join(t.TempDir(), "disk")
			const size = 320 << 20
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(tool,
				append(c.args[1:], path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := Detect(io.ReaderAt(f), size)
			if len(got.Signatures) != 1 || got.Signatures[0].Name != c.want || got.Blank {
				t.Errorf("got %v, blank %v", got.Signatures, got.Blank)
			}
		})
	}
}

// counted counts the reads that fail. Each may take seconds.
type counted struct {
	image
	failed int
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.image.ReadAt(p, off)
	if err != nil && err != io.EOF {
		c.failed++
	}
	return n, err
}

// TestDetectReadsNothingTwice: a bad sector is read once as a part of a chunk, once as a part of a
// piece, and once by itself, however many marks may be there.
func TestDetectReadsNothingTwice(t *testing.T) {
	for _, bad := range []int64{20, 1080, 5000, 32769, 150 << 10, 200<<10 + 7, imageSize - 300<<10,
		imageSize - 600} {
		c := &counted{image: image{b: make([]byte, imageSize), bad: []int64{bad}}}
		if f := Detect(c, imageSize); !f.Blank || c.failed > 3 {
			t.Errorf("bad at %d: %d reads failed, blank %v", bad, c.failed, f.Blank)
		}
	}
}
