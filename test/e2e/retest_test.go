package e2e

import (
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// retested is the part of `remap retest --json` that the tests look at.
type retested struct {
	Found, Home, Failed, Changed uint64
	Ended                        bool
}

// retest runs remap retest or remap clear, and returns what it prints.
func retest(t *testing.T, code int, words ...string) (out retested) {
	t.Helper()
	r := rig.Remap(t, append(words, "--json")...)
	r.Want(t, code)
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	return out
}

// TestRetest takes blocks home whose sectors are well again, while others are not, and users write.
func TestRetest(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	for i, k := range []rig.Kind{rig.KindLoop, rig.KindNull} {
		bs := []int64{512, 4096}[i]
		t.Run(fmt.Sprintf("%s/%d", k, bs), func(t *testing.T) { testRetest(t, k, bs) })
	}
}

func testRetest(t *testing.T, k rig.Kind, bs int64) {
	rig.Guard(t, 4*time.Minute)
	d, s, lay := rig.Serve(t, k, 48, bs, "4MiB")
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	// In the displaced head, after it, and one that stays bad.
	head, data, stays := rig.At(lay.HeadAt().End()-32<<10, 32<<10), rig.At(lay.Head+1<<20, 256<<10),
		rig.At(lay.Head+4<<20, 8<<10)
	d.SetBad(t, []rig.Extent{head, data, stays})
	inHead := lay.Head - 32<<10
	fill := func(seed uint64) {
		t.Helper()
		f.Fill(t, inHead, lay.Head, seed)
		f.Fill(t, data.Start, data.End(), seed)
		f.Fill(t, stays.Start, stays.End(), seed)
	}
	fill(2)
	if st := s.Status(t); st.Spare.Used != 8+64+2 {
		t.Fatalf("%+v", st.Spare)
	}
	all, bad := uint64((32+256+8)<<10/bs), uint64(8<<10/bs)
	if got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "--dry-run"); got.Found != all {
		t.Errorf("dry run: %+v, want %d", got, all)
	}
	d.SetBad(t, []rig.Extent{stays})
	// A server that is killed in the middle leaves everything where it was.
	if got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "--background", "--pause",
		"1h"); got.Ended {
		t.Errorf("in the background: %+v", got)
	}
	rig.Remap(t, "remap", "retest", s.Dev).Want(t, rig.ExitFailed) // there is one
	s.Kill(t)
	s.Start(t)
	rig.Remap(t, "remap", "retest", s.Dev, "--status").Want(t, rig.ExitNotFound)
	if st := s.Status(t); st.Spare.Used != 8+64+2 {
		t.Fatalf("after SIGKILL: %+v", st.Spare)
	}
	got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "--pause", "1s")
	if got.Found != all || got.Home != all-bad || got.Failed != bad {
		t.Errorf("%+v, want %d home and %d failed", got, all-bad, bad)
	}
	if st := s.Status(t); st.Spare.Used != 2 || st.Pending+st.Lost != 0 {
		t.Errorf("after the retest: %+v", st)
	}
	look := func(seed uint64) {
		t.Helper()
		f.Survey(t, inHead, lay.Head, bs, seed, 0)
		f.Survey(t, data.Start, data.End(), bs, seed, 0)
		f.Survey(t, stays.Start, stays.End(), bs, seed, 0)
	}
	look(2)
	retest(t, rig.ExitFailed, "remap", "clear", s.Dev, "--yes", "--pause", "0s")
	rig.Remap(t, "remap", "clear", s.Dev).Want(t, rig.ExitRefused) // nobody can be asked
	d.SetBad(t, nil)
	fill(3)
	if got := retest(t, rig.ExitDone, "remap", "clear", s.Dev, "--yes", "--pause",
		"0s"); got.Home != bad {
		t.Errorf("clear: %+v", got)
	}
	if st := s.Status(t); st.Remaps != 0 || st.Spare.Free != st.Spare.Total {
		t.Errorf("after clear: %+v", st)
	}
	look(3)
	testRetestOfMoved(t, s)
	// A stop in the middle.
	rig.Remap(t, "remap", "add", s.Dev, "0+8").Want(t, rig.ExitDone)
	retest(t, rig.ExitDone, "remap", "retest", s.Dev, "0+8", "--background", "--pause", "1h")
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	look(3)
	for _, words := range [][]string{{"1+0"}, {"999999999"}, {"--pause", "-1s"}, {"8", "--stop"},
		{"--status", "--stop"}} {
		rig.Remap(t, append([]string{"remap", "retest", s.Dev}, words...)...).Want(t, rig.ExitUsage)
	}
}

// testRetestOfMoved: what was moved on purpose stays, unless it is named or everything is cleared.
func testRetestOfMoved(t *testing.T, s *rig.Set) {
	t.Helper()
	rig.Remap(t, "remap", "add", s.Dev, "0+8").Want(t, rig.ExitDone)
	if got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "--pause", "0s"); got.Found != 0 {
		t.Errorf("moved on purpose: %+v", got)
	}
	got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "0+8", "--pause", "0s")
	if got.Home != 8 {
		t.Errorf("named: %+v", got)
	}
}

// TestRetestTakesWrites: sectors that take writes and do not read never come home.
func TestRetestTakesWrites(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 2*time.Minute)
	d, s, lay := rig.Serve(t, rig.KindScsi, 48, 512, "1MiB")
	f := rig.Open(t, s.Dev)
	defer f.Close()
	at := rig.At(lay.Head+1<<20, 8<<10)
	d.SetBad(t, []rig.Extent{at})
	f.Survey(t, at.Start, at.End(), 512, 1, syscall.ENODATA)
	if got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "--pause", "0s"); got.Failed != 16 {
		t.Errorf("pending blocks that do not read: %+v", got)
	}
	f.Fill(t, at.Start, at.End(), 1)
	got := retest(t, rig.ExitDone, "remap", "retest", s.Dev, "--pause", "0s")
	if got.Failed != 16 || got.Home != 0 {
		t.Errorf("remapped blocks whose homes do not read: %+v", got)
	}
	f.Survey(t, at.Start, at.End(), 512, 1, 0)
	if st := s.Status(t); st.Spare.Used != 2 {
		t.Errorf("%+v", st.Spare)
	}
}
