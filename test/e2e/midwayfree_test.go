package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// wellPlaces leaves the disk as it is.
func wellPlaces(*testing.T, *midway) {}

// beginDrills makes drills, one after the other, until the file enough is there or one fails.
func beginDrills(t *testing.T, m *midway) *rig.Process {
	t.Helper()
	return rig.LaunchCmd(t, exec.Command("sh", "-c", `while [ ! -e "$1" ] &&
"$2" drill "$3" --no-restart; do :; done`, "drills", filepath.Join(m.dir, "enough"),
		vmtest.Binary(t), m.Name))
}

// inDrill waits for the beginning of one.
func inDrill(t *testing.T, m *midway) bool {
	t.Helper()
	r := rig.Remap(t, "events", m.Name, "--json")
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	last := lines[len(lines)-1]
	return r.Code == rig.ExitDone && strings.Contains(last, `"drill"`) &&
		strings.Contains(last, `"begun"`)
}

// completeDrill: units that were set aside are free, and drills go well.
func completeDrill(t *testing.T, m *midway) {
	t.Helper()
	rig.Want(t, rig.ExitDone, "drill", m.Name, "--no-restart")
	st := m.Status(t)
	if st.Spare.Used != 0 || st.Spare.Free != st.Spare.Total || st.Remaps+st.Pending+st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// filesystem puts a file system on the device, of which places in free space are bad. It is mounted
// if fio is to write to it.
func filesystem(t *testing.T, m *midway) {
	t.Helper()
	vmtest.NeedTools(t, "mkfs.ext4", "dumpe2fs", "debugfs")
	rig.Mkfs(t, "ext4", m.Dev, "-b", "4096")
	m.at = m.Mount(t, "ext4")
	m.tree = rig.PlantTree(t, m.at, rig.Random(t))
	gone := filepath.Join(m.at, "gone")
	free := rig.Reserve(t, gone, 10<<20)
	must(t, os.Remove(gone))
	rig.SyncFS(t, m.at)
	if m.how == "stop" || m.how == "power cut" {
		rig.Unmount(t, m.at)
		m.at = ""
	}
	lay := rig.LayoutOf(t, m.d.Path)
	m.places = nil
	var bad []rig.Extent
	for _, e := range free {
		for at := e.Start; at+8192 <= e.End(); at += 32 << 10 {
			place := rig.At(at, 4096)
			m.places = append(m.places, place)
			bad = append(bad, lay.HomesOnBacking(place)...)
		}
	}
	m.d.SetBad(t, bad)
	f := rig.OpenToRead(t, m.Dev)
	defer f.Close()
	for _, e := range m.places {
		if f.Read(rig.Aligned(4096), e.Start) == nil {
			t.Fatalf("%s reads", e)
		}
	}
	if st := m.Status(t); st.Pending != int64(8*len(m.places)) || len(m.places) < 200 {
		t.Fatalf("%d places, %d blocks are pending", len(m.places), st.Pending)
	}
}

func beginHealFree(t *testing.T, m *midway) *rig.Process {
	return m.begin(t, "files", m.Name, "--heal-free")
}

func inHealFree(t *testing.T, m *midway) bool {
	return m.Status(t).Pending < int64(8*len(m.places))
}

// completeHealFree heals what is left. A file system that is mounted may hold some of its free
// space ready for files; that is healed once it is not mounted.
func completeHealFree(t *testing.T, m *midway) {
	t.Helper()
	rig.Want(t, rig.ExitDone, "files", m.Name, "--heal-free")
	if m.at != "" {
		rig.Unmount(t, m.at)
		m.at = ""
		rig.Want(t, rig.ExitDone, "files", m.Name, "--heal-free")
	}
	if st := m.Status(t); st.Pending+st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	f := rig.OpenToRead(t, m.Dev)
	defer f.Close()
	for _, e := range m.places {
		if err := f.Read(rig.Aligned(4096), e.Start); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
}

// verifyFiles makes sure that the file system is whole, with all of its files.
func (m *midway) verifyFiles(t *testing.T) {
	t.Helper()
	dir := m.Mount(t, "ext4")
	m.tree.Verify(t, dir)
	rig.Unmount(t, dir)
	rig.Fsck(t, "ext4", m.Dev)
}
