package campaign

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// wipe empties the runtime directory, as a user may do by hand.
func wipe(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(runDir); err != nil {
		t.Fatal(err)
	}
}

// doctorSays wants a finding with these words in it.
func doctorSays(t *testing.T, words ...string) {
	t.Helper()
	out := rig.Remap(t, "doctor").Want(t, 0)
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("doctor says nothing of %q:\n%s", w, out)
		}
	}
}

// served makes a set on a small disk and starts it.
func served(t *testing.T) *rig.Set {
	t.Helper()
	rig.Guard(t, 5*time.Minute)
	loop := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
	s := rig.Create(t, loop, "", "--spare", "1MiB")
	s.Start(t)
	return s
}

// kill kills the server of a set and waits until it is dead.
func kill(t *testing.T, s *rig.Set) {
	t.Helper()
	pid := s.Kill(t)
	rig.Until(t, "the server's death", func() bool { return !rig.Alive(pid) })
}

func number(dev string) string { return strings.TrimPrefix(dev, "/dev/ublkb") }

// list and doctor find the device of a dead server, under its disk's name, even if nothing in /run
// describes it.
func TestRecordLost(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	t.Run("start", func(t *testing.T) {
		s := served(t)
		job := startFio(t, s.Dev, "rw=randwrite", "bs=4k", "iodepth=8", "size=2M",
			"verify_backlog=32", "loops=2")
		kill(t, s)
		wipe(t)
		items := rig.List(t)
		if len(items) != 1 || items[0].Device != s.Dev || items[0].Name != s.Name ||
			items[0].State != "failed" {
			t.Errorf("list shows %+v", items)
		}
		doctorSays(t, s.Dev, "has no server and no record", "ublk-remap start "+s.Path,
			"ublk-remap stop "+number(s.Dev))
		// A device with waiting I/O is not removed.
		rig.Remap(t, "doctor", "--fix").Want(t, 0)
		s.Start(t)
		verified(t, job)
		wantLive(t, s.Dev)
		s.Stop(t)
		s.Check(t)
		wantNothing(t)
	})
	for _, by := range []string{"number", "path", "name", "disk"} {
		t.Run("stop by "+by, func(t *testing.T) {
			s := served(t)
			kill(t, s)
			wipe(t)
			what := map[string]string{"number": number(s.Dev), "path": s.Dev, "name": s.Name,
				"disk": s.Path}[by]
			rig.Remap(t, "stop", what).Want(t, 0)
			s.Dev = ""
			s.Check(t)
			wantNothing(t)
		})
	}
	// There is a second disk with the same UUID. It is not known which of them has the data.
	t.Run("copied disk", func(t *testing.T) {
		s := served(t)
		kill(t, s)
		wipe(t)
		other := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
		rig.Run(t, "dd", "if="+s.Path, "of="+other, "bs=1M", "conv=fsync", "status=none")
		for _, path := range []string{s.Path, other} {
			rig.Remap(t, "start", path).Want(t, 3)
		}
		rig.Remap(t, "stop", number(s.Dev)).Want(t, 0)
		s.Dev = ""
		wantNothing(t)
	})
}

// A living server whose files are gone is not harmed, and can be stopped in order.
func TestFilesLostServerLives(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	s := served(t)
	pid := s.PID()
	wipe(t)
	if items := rig.List(t); len(items) != 1 || items[0].State != "unreachable" ||
		items[0].ServerPID != pid {
		t.Errorf("list shows %+v", items)
	}
	doctorSays(t, "served by process "+strconv.Itoa(pid), "kill "+strconv.Itoa(pid))
	r := rig.Remap(t, "stop", s.Dev)
	if r.Code != 3 || !strings.Contains(r.Stderr, "kill "+strconv.Itoa(pid)) {
		t.Errorf("stop\n%s", r)
	}
	rig.Remap(t, "doctor", "--fix").Want(t, 0)
	if !rig.Alive(pid) {
		t.Fatal("the server has died")
	}
	s.LetDie()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rig.Until(t, "the server's end after SIGTERM", func() bool { return !rig.Alive(pid) })
	s.Dev = ""
	s.Check(t)
	wantNothing(t)
}

// Files without a device and a socket without a server are found and removed; a lock file that no
// process holds is no obstacle.
func TestFilesLeft(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	s := served(t)
	kill(t, s)
	record, err := os.ReadFile(s.RunFile(".json"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Remap(t, "stop", s.Dev).Want(t, 0)
	s.Dev = ""
	for file, text := range map[string]string{s.Name + ".json": string(record),
		s.Name + ".sock": "", "other.sock": "", "other.lock": ""} {
		if err := os.WriteFile(filepath.Join(runDir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doctorSays(t, s.Name+".json", "other.sock", "doctor --fix")
	if items := rig.List(t); len(items) != 0 {
		t.Errorf("list shows %+v", items)
	}
	rig.Remap(t, "doctor", "--fix").Want(t, 0)
	wantNothing(t)
	s.Start(t)
	s.Stop(t)
	s.Check(t)
	wantNothing(t)
}
