package hostile

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestFloodUnderIO: while clients flood the socket, say nothing, say nonsense,
// ask for everything and read nothing, the device does its I/O without an error
// and with the right data, the server stays small, and answers again afterwards.
func TestFloodUnderIO(t *testing.T) {
	need(t)
	// There is room for everything that the clients ask for.
	s := rig.Create(t, vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{}), "", "--spare", "20MiB")
	s.Start(t)
	pid := s.Status(t).ServerPID
	rig.Remap(t, "remap", "add", s.Name, "0+800").Want(t, 0)
	before := rig.ProcessKiB(t, pid, "VmRSS")
	sock := s.RunFile(".sock")

	var over atomic.Bool
	var said, cut atomic.Int64
	var clients sync.WaitGroup
	talk := func(text string, read, stay bool) {
		c, err := net.Dial("unix", sock)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				t.Error(err)
			}
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(rig.Limit))
		_, _ = io.WriteString(c, text)
		if read {
			_ = c.(*net.UnixConn).CloseWrite()
			if n, _ := io.Copy(io.Discard, c); n > 0 {
				said.Add(1)
			} else {
				cut.Add(1)
			}
		}
		for stay && !over.Load() {
			time.Sleep(10 * time.Millisecond)
		}
	}
	const get = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
	post := func(body string) string {
		const request = "POST /v1/remaps/add HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
		return fmt.Sprintf(request, len(body), body)
	}
	for i, c := range []struct {
		text       string
		read, stay bool
		once       bool
	}{
		{fmt.Sprintf(get, "/v1/status"), true, false, false},
		{fmt.Sprintf(get, "/v1/remaps"), true, false, false},
		{fmt.Sprintf(get, "/v1/remaps"), false, true, false},
		{"", false, true, false},
		{"GET /v1/st", false, true, false},
		{"\x00\xff\x16\x03\r\n\r\n", true, false, false},
		{post(`{"ranges":` + strings.Repeat("[", 100_000)), true, false, false},
		{post(`{"ranges":[` + strings.TrimSuffix(
			strings.Repeat(`{"block":5,"count":18446744073709551615},`, 5000), ",") + `]}`), true,
			false, false},
		{post(`{"ranges":[{"block":0,"count":900}]}`), true, false, false},
		// and leaves at once
		{post(`{"ranges":[{"block":1000,"count":30000}]}`), false, false, true},
	} {
		for j := range 2 {
			clients.Go(func() {
				for ; !over.Load(); time.Sleep(20 * time.Millisecond) {
					talk(c.text, c.read, c.stay && (i+j)%2 == 0)
					if c.once {
						return
					}
				}
			})
		}
	}
	// This I/O must not be disturbed by the flood.
	d := rig.Open(t, s.Dev)
	buf := rig.Aligned(rig.Step)
	const bytes = 3 << 20
	passes := 0
	// One pass is enough if a client was answered meanwhile.
	for deadline := time.Now().Add(
		rig.Limit); passes == 0 || said.Load() == 0 && time.Now().Before(deadline); passes++ {
		pass := uint64(passes % 7)
		for off := int64(0); off < bytes; off += rig.Step {
			b := buf[:min(rig.Step, d.Size-off)]
			rig.Pattern(b, off, pass+1)
			must(t, d.Write(b, off))
		}
		must(t, d.Flush())
		for off := int64(0); off < bytes; off += rig.Step {
			b := buf[:min(rig.Step, d.Size-off)]
			must(t, d.Read(b, off))
			must(t, rig.CheckPattern(b, off, pass+1))
		}
	}
	over.Store(true)
	clients.Wait()
	after := rig.ProcessKiB(t, pid, "VmRSS")
	t.Logf("%d answers, %d connections ended without one, %d bytes written and verified; memory "+
		"%d KiB before, %d after, %d at most",
		said.Load(), cut.Load(), passes*bytes, before, after, rig.ProcessKiB(t, pid, "VmHWM"))
	if said.Load() == 0 {
		t.Error("nobody was answered")
	}
	most := before + 64<<10
	if st := s.Status(t); !st.Features.ZeroCopy {
		most += int64(st.Requests.Most) * 512 // KiB: large requests bring memory for their data
	}
	if peak := rig.ProcessKiB(t, pid, "VmHWM"); peak > most {
		t.Errorf("memory: %d KiB at most, %d before", peak, before)
	}
	d.Close()
	if !rig.Alive(pid) {
		t.Fatal("the server has died")
	}
	st := s.Status(t)
	t.Logf("%s, %d remaps", st.State, st.Remaps)
	if st.State != "live" || st.Errors.Read+st.Errors.Write+st.Errors.Flush+
		st.Errors.Transport != 0 {
		t.Errorf("%+v", st)
	}
	// A client that left does not have all of it moved: some 3,800 units. The moves that were under
	// way when it left, of 128 units or a few times that, were finished.
	if st.Remaps > 2000 {
		t.Errorf("%d units were moved for clients that are gone", st.Remaps)
	}
	s.Stop(t)
	s.Check(t)
}
