package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// TestMirrorLost takes one copy of the metadata away altogether, while the
// device is in use, and first all room for another one too: the other one must
// do. When there is room the first is rebuilt there.
func TestMirrorLost(t *testing.T) {
	vmtest.NeedUblk(t)
	for i, name := range []string{"head", "tail"} {
		t.Run(name, func(t *testing.T) { testMirrorLost(t, i) })
	}
}

func testMirrorLost(t *testing.T, which int) {
	guard(t, 4*time.Minute)
	const bs = 512
	d := newDisk(t, kindLoop, 48, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := layoutOf(t, d)
	s.start(t, "--queues", "2")
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	f.fill(t, 0, f.size, 1)
	at := func(i int) int64 { return lay.head + int64(i)*(64<<10) }
	var data []extent
	for i := range 60 {
		data = append(data, extent{at(i) + bs, 2 * bs})
	}
	heal := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			f.fill(t, at(i), at(i)+4096, 2)
		}
	}
	look := func(healed int) {
		t.Helper()
		buf := aligned(4096)
		for i := range data {
			want, seed := error(nil), uint64(2)
			if i >= healed {
				want, seed = syscall.EIO, 1
			}
			if err := f.read(buf, at(i)); err != want {
				t.Errorf("read of unit %d: %v, want %v", i, err, want)
			} else if err == nil {
				checkPattern(t, buf, at(i), seed)
			}
		}
	}
	d.setBad(t, data)
	heal(0, 20)

	headEnd := lay.mirrors[0].end()
	spareEnd := lay.spare.end()
	room := []extent{{headEnd, lay.head - headEnd}, {spareEnd, lay.mirrors[1].start - spareEnd}}
	d.setBad(t, append(append(data, lay.mirrors[which]), room...))
	heal(20, 40)
	if st := s.status(t); st.State != "degraded" || st.Remaps != 40 ||
		st.Breaker.State != "closed" {
		t.Errorf("state %s, remaps %d, breaker %+v, mirrors %+v; one mirror is lost", st.State,
			st.Remaps, st.Breaker, st.Metadata.Mirrors)
	}
	look(40)
	f.close()
	s.kill(t)
	s.start(t)
	f = openUntilClosed(t, s.dev)
	look(40)
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	look(40)
	if st := s.status(t); st.State != "degraded" || st.Remaps != 40 {
		t.Errorf("after new starts: state %s, remaps %d, mirrors %+v", st.State, st.Remaps,
			st.Metadata.Mirrors)
	}
	heal(40, 50)

	// There is room for it elsewhere: that is where it is rebuilt.
	f.close()
	s.stop(t)
	d.setBad(t, append(data, lay.mirrors[which]))
	s.start(t)
	f = openUntilClosed(t, s.dev)
	look(50)
	heal(50, 60)
	st := s.status(t)
	for deadline := time.Now().Add(
		time.Minute); st.State != "live" && time.Now().Before(deadline); st = s.status(t) {
		time.Sleep(50 * time.Millisecond)
	}
	old := fmt.Sprintf("backing@%d", lay.mirrors[which].start)
	if m := st.Metadata.Mirrors[which]; st.State != "live" || m.State != "good" ||
		m.Location == old {
		t.Errorf("state %s, mirrors %+v; there is room for the one that was at %s", st.State,
			st.Metadata.Mirrors, old)
	}
	look(60)
	f.close()

	// By now it does alone; and its old place, which is good again and holds
	// something old, is not believed.
	s.stop(t)
	s.check(t)
	d.setBad(t, append(data, lay.mirrors[1-which]))
	s.start(t)
	f = openUntilClosed(t, s.dev)
	look(60)
	f.close()
	s.stop(t)
	d.setBad(t, data)
}
