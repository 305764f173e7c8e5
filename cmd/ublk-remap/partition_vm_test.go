package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/internal/blockdev"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// otherTool runs a program that can ask no questions, and returns its exit code and its output.
func otherTool(t *testing.T, name string, args ...string) (int, string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", name, err)
	} else if err != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

// wantTool runs a program, and checks its exit code and its output.
func wantTool(t *testing.T, code int, says []string, name string, args ...string) {
	t.Helper()
	got, out := otherTool(t, name, args...)
	for _, s := range says {
		if !strings.Contains(out, s) {
			t.Errorf("%s %s does not say %q:\n%s", name, strings.Join(args, " "), s, out)
		}
	}
	if got != code {
		t.Errorf("%s %s: exit code %d, want %d\n%s", name, strings.Join(args, " "), got, code, out)
	}
}

// seenInUse checks that other tools see that the disk of a stopped set is in use. partition is the
// node that the kernel makes for the partition, or empty if the disk cannot have partitions.
func seenInUse(t *testing.T, disk, partition string) {
	t.Helper()
	wantTool(t, 0, []string{"PTTYPE=dos"}, "blkid", "-p", "-o", "export", disk)
	if code, out := otherTool(t, "blkid", "-p", "-o", "export", disk); strings.Contains("\n"+out,
		"\nTYPE=") {
		t.Errorf("blkid sees something else: %d, %s", code, out)
	}
	wantTool(t, 0, []string{"dos", "0x1fe"}, "wipefs", disk)
	wantTool(t, 0, []string{"Disklabel type: dos", "da Non-FS data"}, "fdisk", "-l", disk)
	wantTool(t, 0, []string{"Partition Table: msdos", "primary"}, "parted", "-s", disk, "print")
	var table struct {
		PartitionTable struct {
			Label, ID  string
			Partitions []struct {
				Start, Size int64
				Type        string
			}
		}
	}
	if err := json.Unmarshal([]byte(vmtest.Run(t, "sfdisk", "--json", disk)), &table); err != nil {
		t.Fatal(err)
	}
	pt := table.PartitionTable
	size, block := first(t, disk, nil)
	if len(pt.Partitions) != 1 || pt.Label != "dos" || pt.ID == "0x00000000" ||
		pt.Partitions[0].Type != "da" || pt.Partitions[0].Start != 1 ||
		pt.Partitions[0].Size != size/block-2 {
		t.Errorf("sfdisk sees %+v", pt)
	}
	if partition == "" {
		return
	}
	if _, err := os.Stat(partition); err != nil {
		t.Fatal(err)
	}
	// Neither other tools nor this program find anything on the partition.
	wantTool(t, 0, []string{"PART_ENTRY_TYPE=0xda"}, "blkid", "-p", "-o", "export", partition)
	if _, out := otherTool(t, "blkid", "-p", "-o", "export", partition); strings.Contains(out,
		"\nTYPE=") || strings.Contains(out, "PTTYPE=") {
		t.Errorf("blkid sees something on %s: %s", partition, out)
	}
	if code, out := otherTool(t, "wipefs", "--noheadings", partition); out != "" {
		t.Errorf("wipefs sees something on %s: %d %s", partition, code, out)
	}
	f, err := os.Open(partition)
	must(t, err)
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	must(t, err)
	if found := blockdev.Detect(f, end); len(found.Signatures) > 0 {
		t.Errorf("%s shows %v", partition, found.Signatures)
	}
	for _, args := range [][]string{{"start"}, {"create", "--force", "--yes"},
		{"metadata", "check"}, {"metadata", "dump"}, {"metadata", "repair"}, {"release", "--yes"}} {
		refusedWith(t, strings.Join(args, " "), ublkRemap(t, append(args, partition)...), 3, disk)
	}
}

// first reads the first bytes of a device, and returns its size and that of its blocks.
func first(t *testing.T, path string, b []byte) (size, block int64) {
	t.Helper()
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{ReadOnly: true,
		Shared: true})
	must(t, err)
	defer d.Close()
	if len(b) > 0 {
		_, err = d.ReadAt(b, 0)
		must(t, err)
	}
	return d.Size(), int64(d.Geometry().LogicalBlock)
}

// notWrittenOver checks that no tool writes over the disk of a stopped set unless it is forced to.
func notWrittenOver(t *testing.T, disk string) {
	t.Helper()
	was := sum(t, disk)
	wantTool(t, 1, []string{"partition table (dos)"}, "mkfs.xfs", disk)
	wantTool(t, 1, []string{"partition table (dos)"}, "mkfs.btrfs", disk)
	wantTool(t, 1, []string{"Partitions"}, "mkfs.vfat", disk)
	if sum(t, disk) != was {
		t.Error("it was written to")
	}
}

// needPartitions skips a test outside of guests: many machines have kernels without DOS partition
// tables.
func needPartitions(t *testing.T) {
	t.Helper()
	if !vmtest.InGuest() {
		t.Skip("needs a kernel that knows partition tables: runs in guests")
	}
	vmtest.NeedTools(t, "blkid", "wipefs", "fdisk", "sfdisk", "parted", "lsblk", "mkfs.xfs",
		"mkfs.btrfs", "mkfs.vfat", "mkfs.ext4")
}

// TestOthersSeeTheDisk: other tools see that the disk of a stopped set is in use, whatever is on
// it. The kernel's node of the partition shows nothing, does not get in the way, and is refused.
func TestOthersSeeTheDisk(t *testing.T) {
	vmtest.OnOneKernel(t)
	needPartitions(t)
	useRuntimeDir(t)
	for _, block := range []uint32{512, 4096} {
		t.Run(fmt.Sprintf("disk, blocks of %d", block), func(t *testing.T) {
			o := vmtest.LoopOptions{BlockSize: block, Partitions: true}
			disk := vmtest.NewLoop(t, 64<<20, o)
			mustRun(t, 0, "create", disk)
			seenInUse(t, disk, disk+"p1")
			notWrittenOver(t, disk)
			// The next set is made on it as on any other disk.
			refusedWith(t, "create again", ublkRemap(t, "create", disk), 3, "ublk-remap's backing")
			if r := mustRun(t, 0, "create", disk, "--force", "--yes"); strings.Contains(r.out,
				"partition") {
				t.Error(r.out)
			}
			wantTool(t, 0, []string{"PTTYPE=dos"}, "blkid", "-p", "-o", "export", disk)
			mustRun(t, 0, "release", disk, "--yes")
			wantTool(t, 2, nil, "blkid", "-p", disk)
			if _, err := os.Stat(disk + "p1"); err == nil {
				t.Error("the partition is still there")
			}
		})
	}
	t.Run("pair", func(t *testing.T) {
		// Each disk counts in blocks of its own size.
		disk := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{BlockSize: 4096, Partitions: true})
		spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{Partitions: true})
		mustRun(t, 0, "create", disk, "--spare-device", spare)
		for _, d := range []string{disk, spare} {
			seenInUse(t, d, d+"p1")
			notWrittenOver(t, d)
		}
		mustRun(t, 0, "release", disk, "--spare-device", spare, "--yes")
		for _, d := range []string{disk, spare} {
			wantTool(t, 2, nil, "blkid", "-p", d)
			if _, err := os.Stat(d + "p1"); err == nil {
				t.Error("the partition is still there: ", d)
			}
		}
	})
	t.Run("partition", func(t *testing.T) {
		whole := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{Partitions: true})
		script := exec.Command("sfdisk", "-q", whole)
		script.Stdin = strings.NewReader("label: gpt\nsize=40M\nsize=8M\n")
		if out, err := script.CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		before := vmtest.Run(t, "sfdisk", "-d", whole)
		disk := whole + "p1"
		mustRun(t, 0, "create", disk)
		seenInUse(t, disk, "")
		if now := vmtest.Run(t, "sfdisk", "-d", whole); now != before {
			t.Errorf("the disk's own table is\n%s\nit was\n%s", now, before)
		}
		vmtest.Run(t, "blockdev", "--rereadpt", whole)
		for part, there := range map[string]bool{"p1": true, "p2": true, "p3": false,
			"p1p1": false} {
			if _, err := os.Stat(whole + part); (err == nil) != there {
				t.Errorf("%s%s: %v", whole, part, err)
			}
		}
		wantTool(t, 1, []string{"partition table (dos)"}, "mkfs.xfs", disk)
		wantTool(t, 1, []string{"partition table (dos)"}, "mkfs.btrfs", disk)
		mustRun(t, 0, "metadata", "check", disk)
	})
}

// TestOthersSeeTheDiskInPlace: the same for a disk that keeps its file system. The file system must
// not be visible while the disk is a set, and is back with all its contents after release.
func TestOthersSeeTheDiskInPlace(t *testing.T) {
	vmtest.OnOneKernel(t)
	needPartitions(t)
	useRuntimeDir(t)
	for i, tc := range []struct {
		mkfs  []string // the disk comes behind it
		block uint32
	}{
		{[]string{"mkfs.ext4", "-q", "-F"}, 512},
		{[]string{"mkfs.btrfs", "-q", "-f", "-M", "-s", "4096"}, 4096},
		{[]string{"mkfs.xfs", "-q", "-f"}, 512},
		{[]string{"mkfs.ext4", "-q", "-F"}, 4096},
		{[]string{"mkfs.xfs", "-q", "-f"}, 4096},
		{[]string{"mkfs.btrfs", "-q", "-f", "-M"}, 512},
		{[]string{"mkfs.vfat", "-I"}, 512},
	} {
		if i >= 2 && !vmtest.Full() {
			break
		}
		t.Run(fmt.Sprintf("%s, blocks of %d", tc.mkfs[0], tc.block), func(t *testing.T) {
			o := vmtest.LoopOptions{BlockSize: tc.block, Partitions: true}
			disk, spare := vmtest.NewLoop(t, 352<<20, o), vmtest.NewLoop(t, 16<<20, o)
			vmtest.Run(t, tc.mkfs[0], append(tc.mkfs[1:], disk)...)
			page := make([]byte, 2<<20)
			first(t, disk, page)
			before := vmtest.Run(t, "blkid", "-p", "-o", "export", disk)
			mustRun(t, 0, "create", disk, "--in-place", "--spare-device", spare, "--yes")
			seenInUse(t, disk, disk+"p1")
			notWrittenOver(t, disk)
			mustRun(t, 0, "release", disk, "--spare-device", spare, "--yes")
			now := make([]byte, len(page))
			first(t, disk, now)
			if !bytes.Equal(now, page) {
				t.Error("the first MiBs are not what they were")
			}
			if after := vmtest.Run(t, "blkid", "-p", "-o", "export", disk); after != before {
				t.Errorf("blkid sees\n%s\nit was\n%s", after, before)
			}
			if _, err := os.Stat(disk + "p1"); err == nil {
				t.Error("the partition is still there")
			}
		})
	}
}

// TestServedBesidePartition: a device works while the partition of its disk exists. Nothing can use
// the partition meanwhile, and a process that only reads it does not get in the way.
func TestServedBesidePartition(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{Partitions: true})
	s := rig.Create(t, disk, "", "--name", "beside")
	s.CheckAtEnd(t)
	looks, err := os.Open(disk + "p1")
	must(t, err)
	defer looks.Close()
	s.Start(t)
	if code, out := otherTool(t, "mkfs.ext4", "-F", "-q", disk+"p1"); code == 0 {
		t.Errorf("a file system was made beneath: %s", out)
	}
	rig.Mkfs(t, "ext4", s.Dev)
	dir := s.Mount(t, "ext4")
	s.Kill(t)
	s.Start(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("written"), 0o600))
	rig.SyncFS(t, dir)
	rig.Unmount(t, dir)
}
