package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// midway is a set on which an operation of an operator is cut short by the end of its server.
type midway struct {
	*rig.Set
	d      *rig.Disk
	places []rig.Extent // of the device: what the operation is about
	dir    string
	how    string    // one of midwayEnds
	log    *writeLog // of what reaches the disk, for a power cut
	// Of a file system on the device; see filesystem.
	tree rig.Tree
	at   string // where it is mounted; empty: it is not
}

// midwayEnds are the ways in which a server ends.
var midwayEnds = []string{"stop", "upgrade", "SIGKILL", "power cut"}

// TestEndsInTheMiddle ends the server in the middle of a retest, a fill, an import, a scrub with
// its retest, drills, and files --heal-free. Nothing is lost, and the operation can be made again,
// and completes. While the server is replaced or killed fio writes beside it, and verifies.
func TestEndsInTheMiddle(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.Long(t)
	if testing.Short() {
		t.Skip("24 sets are filled and read")
	}
	vmtest.NeedUblk(t)
	for _, op := range []struct {
		name     string
		prepare  func(t *testing.T, m *midway)
		begin    func(t *testing.T, m *midway) *rig.Process
		middle   func(t *testing.T, m *midway) bool
		complete func(t *testing.T, m *midway)
	}{
		{"retest", remapped, beginRetest, inRetest, completeRetest},
		{"fill", pendingPlaces, beginFill, inFill, completeFill},
		{"import", listed, beginImport, inImport, completeImport},
		{"scrub", remapped, beginScrub, inScrub, completeScrub},
		{"drill", wellPlaces, beginDrills, inDrill, completeDrill},
		{"heal-free", filesystem, beginHealFree, inHealFree, completeHealFree},
	} {
		for _, end := range midwayEnds {
			t.Run(op.name+"/"+end, func(t *testing.T) {
				rig.Guard(t, 20*time.Minute)
				m := newMidway(t, end)
				op.prepare(t, m)
				job := m.beside(t)
				m.mark(t, "begun")
				p := op.begin(t, m)
				rig.Until(t, op.name+" is under way", func() bool {
					return op.middle(t, m) || p != nil && p.Ended()
				})
				m.mark(t, "middle")
				m.end(t)
				if p != nil {
					p.Wait(t, 10*time.Minute) // how it ends does not matter
				}
				if job != nil {
					if r := job.Done(t); r.ReadBytes == 0 {
						t.Error("fio has verified nothing")
					}
				}
				m.afterwards(t, func(t *testing.T) {
					op.complete(t, m)
					m.verify(t)
				})
			})
		}
	}
}

// midwaySize is how large the disks are, in MiB.
const midwaySize = 48

// newMidway makes a set of which the first 26 MiB hold a pattern. how is the way in which its
// server will end; empty: it will not.
func newMidway(t *testing.T, how string) *midway {
	t.Helper()
	m := &midway{dir: t.TempDir(), how: how}
	if how == "power cut" {
		m.log = newWriteLog(t, m.dir)
		m.d = rig.NewDiskOn(t, m.log.dm.Path, midwaySize, 512)
	} else {
		m.d = rig.NewDisk(t, rig.KindLoop, midwaySize, 512)
	}
	d := m.d
	m.Set = create(t, d, "--spare", "8MiB")
	lay := rig.LayoutOf(t, d.Path)
	m.Start(t)
	f := rig.Open(t, m.Dev)
	defer f.Close()
	f.Fill(t, 0, 26<<20, 1)
	for i := range int64(600) {
		m.places = append(m.places, rig.At(lay.Head+i*(32<<10), 4096))
	}
	return m
}

// beside starts fio, if it survives the end of the server. Its place holds no pattern.
func (m *midway) beside(t *testing.T) *rig.Fio {
	t.Helper()
	if m.how != "upgrade" && m.how != "SIGKILL" {
		return nil
	}
	args := []string{"rw=randwrite", "bs=4k", "iodepth=4", "size=4M", "verify=crc32c",
		"randrepeat=1", "verify_backlog=64", "loops=2"}
	if m.at != "" {
		return rig.StartFio(t, filepath.Join(m.at, "fio"), args...)
	}
	return rig.StartFio(t, m.Dev, append(args, "offset=26M")...)
}

// verify makes sure that nothing was lost.
func (m *midway) verify(t *testing.T) {
	t.Helper()
	if m.tree != nil {
		m.verifyFiles(t)
		return
	}
	f := rig.Open(t, m.Dev)
	defer f.Close()
	f.Survey(t, 0, 26<<20, m.d.BlockSize, 1, 0)
}

// end ends the server; after a stop and a SIGKILL it is started again.
func (m *midway) end(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(m.dir, "enough"), nil, 0o600)) // see beginDrills
	switch m.how {
	case "power cut":
		m.LetDie()
		rig.Want(t, rig.ExitDone, "stop", "--force", m.Name)
		m.Dev = ""
	case "stop": // an import reads the device, so it is a user
		m.LetDie()
		rig.Want(t, rig.ExitDone, "stop", "--force", m.Name)
		m.Dev = ""
		m.Start(t)
	case "upgrade":
		m.LetDie()
		rig.Want(t, rig.ExitDone, "upgrade", m.Name)
		m.Attend(t)
	case "SIGKILL":
		m.Kill(t)
		m.Start(t)
	}
}

// begin runs the command in the background.
func (m *midway) begin(t *testing.T, words ...string) *rig.Process {
	t.Helper()
	return rig.Launch(t, vmtest.Binary(t), words...)
}

// remapped moves the places to the spare region by writes that fail; then they are well again.
func remapped(t *testing.T, m *midway) {
	t.Helper()
	m.places = m.places[:200]
	f := rig.Open(t, m.Dev)
	defer f.Close()
	m.d.SetBad(t, m.places)
	for _, e := range m.places {
		f.Fill(t, e.Start, e.End(), 1)
	}
	m.d.SetBad(t, nil)
	if st := m.Status(t); st.Spare.Used != int64(len(m.places)) {
		t.Fatalf("%+v", st.Spare)
	}
}

func beginRetest(t *testing.T, m *midway) *rig.Process {
	return m.begin(t, "remap", "retest", m.Dev, "--pause", "200ms")
}

func inRetest(t *testing.T, m *midway) bool {
	var got struct{ Step string }
	r := rig.Remap(t, "remap", "retest", m.Dev, "--status", "--json")
	if r.Code != rig.ExitDone {
		return false
	}
	rig.Parse(t, r, &got)
	return slices.Contains([]string{"displace", "read", "pause", "take"}, got.Step)
}

func completeRetest(t *testing.T, m *midway) {
	got := retest(t, rig.ExitDone, "remap", "retest", m.Dev, "--pause", "0s")
	if st := m.Status(t); got.Failed+got.Changed > 0 || st.Spare.Used != 0 {
		t.Errorf("%+v, %+v", got, st.Spare)
	}
}

// pendingPlaces makes the places bad, and has that found.
func pendingPlaces(t *testing.T, m *midway) {
	t.Helper()
	f := rig.Open(t, m.Dev)
	defer f.Close()
	m.d.SetBad(t, m.places)
	for _, e := range m.places {
		f.Survey(t, e.Start, e.End(), 4096, 1, m.d.ReadErrno())
	}
	image, err := os.Create(filepath.Join(m.dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	b := make([]byte, 1<<20)
	for at := int64(0); at < f.Size; at += int64(len(b)) {
		rig.Pattern(b, at, 1)
		if _, err := image.Write(b[:min(int64(len(b)), f.Size-at)]); err != nil {
			t.Fatal(err)
		}
	}
	if st := m.Status(t); st.Pending != int64(8*len(m.places)) {
		t.Fatalf("%d blocks are pending", st.Pending)
	}
}

func beginFill(t *testing.T, m *midway) *rig.Process {
	return m.begin(t, "fill", m.Dev, "--from", filepath.Join(m.dir, "image"))
}

func inFill(t *testing.T, m *midway) bool {
	return m.Status(t).Pending < int64(8*len(m.places))
}

func completeFill(t *testing.T, m *midway) {
	rig.Want(t, rig.ExitDone, "fill", m.Dev, "--from", filepath.Join(m.dir, "image"))
	if st := m.Status(t); st.Pending+st.Lost != 0 || st.Remaps != int64(len(m.places)) {
		t.Errorf("%+v", st)
	}
}

// listed makes a list of the places, which are well.
func listed(t *testing.T, m *midway) {
	t.Helper()
	var list strings.Builder
	for _, e := range m.places {
		for at := e.Start; at < e.End(); at += 512 {
			fmt.Fprintln(&list, at/512)
		}
	}
	if err := os.WriteFile(filepath.Join(m.dir, "bad"), []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *midway) importLine() []string {
	return []string{"import", m.Dev, filepath.Join(m.dir, "bad"), "--format", "badblocks",
		"--block-size", "512"}
}

func beginImport(t *testing.T, m *midway) *rig.Process { return m.begin(t, m.importLine()...) }

func inImport(t *testing.T, m *midway) bool {
	st := m.Status(t)
	return st.Pending+st.Remaps > 0
}

func completeImport(t *testing.T, m *midway) {
	rig.Want(t, rig.ExitDone, m.importLine()...)
	if st := m.Status(t); st.Pending+st.Lost != 0 || st.Remaps != int64(len(m.places)) {
		t.Errorf("%+v", st)
	}
}

// scrubbed is the part of `scrub status --json` that the tests look at.
type scrubbed struct {
	State  string
	Retest struct {
		Running                      bool
		Tested, Passed, Home, Failed uint64
	}
}

func (m *midway) scrub(t *testing.T) (s scrubbed) {
	t.Helper()
	rig.Parse(t, rig.Want(t, rig.ExitDone, "scrub", "status", m.Dev, "--json"), &s)
	return s
}

func beginScrub(t *testing.T, m *midway) *rig.Process {
	rig.Want(t, rig.ExitDone, "scrub", "start", m.Dev, "--rate", "1GiB")
	return nil // the server does it
}

func inScrub(t *testing.T, m *midway) bool {
	r := m.scrub(t).Retest
	return r.Running && r.Tested > 0 || r.Passed > 0
}

// completeScrub makes one more pass. What has passed a test was forgotten with the server, unless
// the server's end came before that of the pass was durable. So any block may still live in the
// spare region, and none has failed.
func completeScrub(t *testing.T, m *midway) {
	got := m.pass(t).Retest
	if st := m.Status(t); got.Failed > 0 || st.Pending+st.Lost > 0 {
		t.Errorf("%+v; %+v", got, st)
	}
}

// pass makes a pass of the scrub, with its retest.
func (m *midway) pass(t *testing.T) scrubbed {
	t.Helper()
	idle := func() bool {
		s := m.scrub(t)
		return s.State == "idle" && !s.Retest.Running
	}
	m.d.UntilDone(t, "the scrub is idle", idle)
	rig.Want(t, rig.ExitDone, "scrub", "start", m.Dev, "--rate", "1GiB")
	m.d.UntilDone(t, "the end of the pass and its retest", idle)
	return m.scrub(t)
}

// TestScrubRetests: blocks whose homes are well again are home after two passes of the scrub, and
// not after one. One whose home is bad stays, and all of that is in the flight recorder.
func TestScrubRetests(t *testing.T) {
	vmtest.OnOneKernel(t)
	if testing.Short() {
		t.Skip("a whole disk is read three times")
	}
	vmtest.NeedUblk(t)
	rig.Guard(t, 20*time.Minute)
	m := newMidway(t, "")
	remapped(t, m)
	m.d.SetBad(t, m.places[7:8])
	all := uint64(8 * len(m.places))
	first := m.pass(t).Retest
	if first.Tested != all || first.Passed != all-8 || first.Home != 0 || first.Failed != 8 {
		t.Errorf("after one pass: %+v, of %d", first, all)
	}
	second := m.pass(t).Retest
	if second.Home != all-8 {
		t.Errorf("after two passes: %+v, of %d", second, all)
	}
	if st := m.Status(t); st.Spare.Used != 1 || st.Pending+st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	events := rig.Want(t, rig.ExitDone, "events", m.Dev).Stdout
	for _, want := range []string{
		fmt.Sprintf("finished: %d of %d blocks are well, and home again", 0, all),
		fmt.Sprintf("finished: %d of %d blocks are well, and home again", all-8, all-8),
		"finished: nothing was found",
	} {
		if !strings.Contains(events, want) {
			t.Errorf("%q is not in the flight recorder:\n%s", want, events)
		}
	}
	m.d.SetBad(t, nil)
	rig.Want(t, rig.ExitDone, "scrub", "start", m.Dev, "--rate", "1GiB", "--no-retest")
	m.d.UntilDone(t, "the end of the pass", func() bool { return m.scrub(t).State == "idle" })
	if got := m.scrub(t).Retest; got != second {
		t.Errorf("with --no-retest: %+v", got)
	}
	f := rig.Open(t, m.Dev)
	defer f.Close()
	f.Survey(t, 0, 26<<20, m.d.BlockSize, 1, 0)
}
