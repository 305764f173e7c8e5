package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestMirrorLost makes one mirror of the metadata fail altogether while the device is in use. At
// first there is no room for another one, and the mirror that is left must be enough. When there is
// room, the lost mirror is rebuilt there.
func TestMirrorLost(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	for i, name := range []string{"head", "tail"} {
		t.Run(name, func(t *testing.T) { testMirrorLost(t, i) })
	}
}

func testMirrorLost(t *testing.T, which int) {
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	d, s, lay := rig.Serve(t, rig.KindLoop, 48, bs, "2MiB", "--queues", "2")
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	at := func(i int) int64 { return lay.Head + int64(i)*(64<<10) }
	var data []rig.Extent
	for i := range 60 {
		data = append(data, rig.At(at(i)+bs, 2*bs))
	}
	heal := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			f.Fill(t, at(i), at(i)+4096, 2)
		}
	}
	look := func(healed int) {
		t.Helper()
		buf := rig.Aligned(4096)
		for i := range data {
			want, seed := error(nil), uint64(2)
			if i >= healed {
				want, seed = syscall.EIO, 1
			}
			if err := f.Read(buf, at(i)); err != want {
				t.Errorf("read of unit %d: %v, want %v", i, err, want)
			} else if err == nil {
				rig.WantPattern(t, buf, at(i), seed)
			}
		}
	}
	d.SetBad(t, data)
	heal(0, 20)

	headEnd := lay.Mirrors()[0].End()
	spareEnd := lay.Spare().End()
	room := []rig.Extent{rig.At(headEnd, lay.Head-headEnd),
		rig.At(spareEnd, lay.Mirrors()[1].Start-spareEnd)}
	d.SetBad(t, append(append(data, lay.Mirrors()[which]), room...))
	heal(20, 40)
	if st := s.Status(t); st.State != "degraded" || st.Remaps != 40 ||
		st.Breaker.State != "closed" {
		t.Errorf("state %s, remaps %d, breaker %+v, mirrors %+v; one mirror is lost", st.State,
			st.Remaps, st.Breaker, st.Metadata.Mirrors)
	}
	look(40)
	f.Close()
	s.Kill(t)
	s.Start(t)
	f = rig.Open(t, s.Dev)
	look(40)
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	look(40)
	if st := s.Status(t); st.State != "degraded" || st.Remaps != 40 {
		t.Errorf("after new starts: state %s, remaps %d, mirrors %+v", st.State, st.Remaps,
			st.Metadata.Mirrors)
	}
	heal(40, 50)

	// There is room for it elsewhere now, and it is rebuilt there.
	f.Close()
	s.Stop(t)
	d.SetBad(t, append(data, lay.Mirrors()[which]))
	s.Start(t)
	f = rig.Open(t, s.Dev)
	look(50)
	heal(50, 60)
	st := s.Status(t)
	for deadline := time.Now().Add(
		time.Minute); st.State != "live" && time.Now().Before(deadline); st = s.Status(t) {
		time.Sleep(50 * time.Millisecond)
	}
	old := fmt.Sprintf("backing@%d", lay.Mirrors()[which].Start)
	if m := st.Metadata.Mirrors[which]; st.State != "live" || m.State != "good" ||
		m.Location == old {
		t.Errorf("state %s, mirrors %+v; there is room for the one that was at %s", st.State,
			st.Metadata.Mirrors, old)
	}
	look(60)
	f.Close()

	// The rebuilt mirror is enough by itself now. Its old place, which is good again and holds old
	// metadata, is not used.
	s.Stop(t)
	s.Check(t)
	d.SetBad(t, append(data, lay.Mirrors()[1-which]))
	s.Start(t)
	f = rig.Open(t, s.Dev)
	look(60)
	f.Close()
	s.Stop(t)
	d.SetBad(t, data)
}
