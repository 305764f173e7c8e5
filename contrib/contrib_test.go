// Package contrib holds what other projects need to know the disks of ublk-remap: an entry for the
// magic of file(1), and a prober for libblkid. Its tests try both.
package contrib

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// image unpacks a golden image.
func image(t *testing.T, name string) string {
	t.Helper()
	in, err := os.Open(filepath.Join("../metadata/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pair is what file(1) says of either device of the pair.
const pair = `name "v4-pair-4096-partition", UUID 1fed8810-9aee-5982-94b0-db17adc73118, ` +
	"blocks of 4096 bytes, shows 16777216 bytes"

// TestFile: file(1) says what a disk is, with the magic of this directory alone, and before that of
// boot sectors.
func TestFile(t *testing.T) {
	program, err := exec.LookPath("file")
	if err != nil {
		t.Skip(err)
	}
	magics := []string{"file/ublk-remap"}
	// The first list of magic that has an entry wins.
	if _, err := os.Stat("/usr/share/misc/magic.mgc"); err == nil {
		magics = append(magics, "file/ublk-remap:/usr/share/misc/magic.mgc")
	}
	for _, c := range []struct{ image, want string }{
		{"v4-alone-512.0.img.gz", `ublk-remap disk, version 4, name "v4-alone-512", ` +
			"UUID 6041b0d1-d7c9-521b-a6ac-06a8a68bcec8, blocks of 512 bytes, shows 14680064 bytes"},
		{"v4-pair-4096-partition.0.img.gz", "ublk-remap disk, version 4, " + pair},
		{"v4-pair-4096-partition.1.img.gz", "ublk-remap spare device, version 4, " + pair},
	} {
		path := image(t, c.image)
		for _, magic := range magics {
			out, err := exec.Command(program, "-b", "-m", magic, path).CombinedOutput()
			if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != c.want {
				t.Errorf("%s, magic %s: %v\n%s\nwant\n%s", c.image, magic, err, got, c.want)
			}
		}
	}
}

// libblkid stands for the headers of util-linux, as far as the prober uses them.
const libblkid = `
typedef struct blkid_struct_probe *blkid_probe;
struct blkid_idmag { const char *magic; unsigned int len; long kboff; };
struct blkid_idinfo {
	const char *name;
	int usage;
	int (*probefunc)(blkid_probe pr, const struct blkid_idmag *mag);
	struct blkid_idmag magics[8];
};
enum { BLKID_USAGE_RAID = 4, BLKID_PROBE_OK = 0, BLKID_PROBE_NONE = 1 };
const unsigned char *blkid_probe_get_sb_buffer(blkid_probe, const struct blkid_idmag *, size_t);
int blkid_probe_verify_csum(blkid_probe, uint64_t, uint64_t);
int blkid_probe_sprintf_version(blkid_probe, const char *, ...);
int blkid_probe_set_uuid(blkid_probe, const unsigned char *);
int blkid_probe_set_uuid_as(blkid_probe, const unsigned char *, const char *);
int blkid_probe_set_label(blkid_probe, const unsigned char *, size_t);
#define le32_to_cpu(v) (v)
#define le64_to_cpu(v) (v)
`

const xxhash = `
typedef struct XXH64_state XXH64_state_t;
XXH64_state_t *XXH64_createState(void);
int XXH64_reset(XXH64_state_t *, uint64_t);
int XXH64_update(XXH64_state_t *, const void *, size_t);
uint64_t XXH64_digest(const XXH64_state_t *);
int XXH64_freeState(XXH64_state_t *);
`

// TestLibblkid: the prober compiles without a warning, and has every field of the superblock where
// FORMAT.md draws it.
func TestLibblkid(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	prober, err := filepath.Abs("libblkid/ublk_remap.c")
	if err != nil {
		t.Fatal(err)
	}
	source := fmt.Sprintf("#include %q\n", prober)
	for field, at := range map[string]int{"magic": 0, "version": 8, "size": 12, "checksum": 16,
		"set_uuid": 24, "device_uuid": 40, "generation": 56, "device_index": 108,
		"block_size": 112, "head_bytes": 120, "exported_bytes": 128, "name": 160} {
		source += fmt.Sprintf("_Static_assert(offsetof(struct ublk_remap_super_block, %s) == %d,"+
			" %q);\n", field, at, field)
	}
	for name, text := range map[string]string{"superblocks.h": libblkid, "xxhash.h": xxhash,
		"test.c": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(gcc, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I", dir,
		filepath.Join(dir, "test.c")).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
