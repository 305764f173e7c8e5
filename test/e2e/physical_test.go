package e2e

import (
	"bytes"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestPhysicalSector: a disk with blocks of 512 bytes and physical sectors of 4096, of which two
// do not read, and take writes. After one read of one of their blocks all of that sector is
// pending, and no more; after one write it reads, over a restart too. Another read of
// what is pending is answered without the disk.
func TestPhysicalSector(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 3*time.Minute)
	const size, sector = 64 << 20, 4096
	scsi := vmtest.NewScsiDebug(t, "dev_size_mb=64", "physblk_exp=3", "delay=0")
	d := &rig.Disk{Kind: rig.KindScsi, Path: scsi.Path, Size: size, BlockSize: 512}
	s := create(t, d, "--spare", "1MiB")
	at := rig.LayoutOf(t, d.Path).Head + 8<<20
	scsi.SetMediumErrors(t, at/512+3, 10) // in the first sector and in the one after it
	s.Start(t)
	f := rig.Open(t, s.Dev)
	for i, want := range []int64{8, 16} {
		one := at + int64(i)*sector + 1536
		if err := f.Read(rig.Aligned(512), one); err != d.ReadErrno() {
			t.Errorf("read of a bad block: %v", err)
		}
		before := s.Status(t)
		if before.Pending != want {
			t.Errorf("%d blocks are pending, want %d", before.Pending, want)
		}
		if err := f.Read(rig.Aligned(512), one); err == nil {
			t.Error("the bad block reads")
		}
		if after := s.Status(t); after.Errors.Read != before.Errors.Read ||
			after.Errors.FailedFast != before.Errors.FailedFast+1 {
			t.Errorf("the disk was asked again: errors %+v, then %+v", before.Errors, after.Errors)
		}
	}
	data := rig.Aligned(4 * sector)
	rig.Pattern(data, at-sector, 7)
	if err := f.Write(data, at-sector); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for range 2 {
		f, got := rig.Open(t, s.Dev), rig.Aligned(4*sector)
		if err := f.Read(got, at-sector); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what was written does not read: %v", err)
		}
		f.Close()
		if st := s.Status(t); st.Pending != 0 || st.Remaps != 2 {
			t.Errorf("%d blocks pending, %d units remapped, want 0, 2", st.Pending, st.Remaps)
		}
		s.Restart(t)
	}
}
