package server

import (
	"os"
	"path/filepath"
	"testing"

	"ublkremap/internal/blockdev"
	"ublkremap/remap"
)

// TestParamsPhysicalBlock: the exported physical block is the largest of the devices' physical
// blocks, and not smaller than the one that the set was made for.
func TestParamsPhysicalBlock(t *testing.T) {
	var devices []*blockdev.Device
	for _, name := range []string{"backing", "spare"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := blockdev.Open(t.Context(), path, blockdev.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		devices = append(devices, d)
	}
	here := 0
	for _, d := range devices {
		here = max(here, d.Geometry().PhysicalBlock)
	}
	for _, made := range []int{0, 512, 4096, 16384, 65536} {
		geo := &remap.Geometry{BlockSize: 512, Blocks: 2048, PhysicalBlock: made}
		p := params(devices, geo, 512<<10)
		if want := uint32(max(made, here)); p.PhysicalBlockSize != want || p.IOMin < want {
			t.Errorf("made for %d, the disks have %d: exported %d, smallest request %d", made, here,
				p.PhysicalBlockSize, p.IOMin)
		}
	}
}
