package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// smartctl is a program in the place of smartctl that keeps the limits of one drive in a file. No
// drive of a guest has such limits.
const smartctl = `#!/bin/sh
case $3 in
scterc) ;;
scterc,*) IFS=,; set -- $3; echo "$2 $3" >FILE;;
esac
IFS=' '
read r w <FILE
on() {
case $1 in
0) echo '{"enabled":false}';;
*) echo "{\"enabled\":true,\"deciseconds\":$1}";;
esac
}
echo "{\"smartctl\":{\"exit_status\":0},\"ata_sct_erc\":{\"read\":$(on $r),\"write\":$(on $w)}}"
`

// TestRecoveryTime: a start limits how long a drive tries a bad sector or, if that cannot be done,
// has the kernel wait longer. Both are undone by the stop of the last set on the disk, also if
// servers were killed in between. This is the sysfs of a real SCSI disk.
func TestRecoveryTime(t *testing.T) {
	vmtest.NeedUblk(t)
	rig.Guard(t, 3*time.Minute)
	scsi := vmtest.NewScsiDebug(t, "dev_size_mb=64", "delay=0")
	disk := filepath.Base(scsi.Path)
	const mib = 1 << 20 / 512
	part := func(at int) *rig.Set {
		dm := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s %d\n", 32*mib, scsi.Path, at*mib))
		s := rig.Create(t, dm.Path, "", "--spare", "1MiB")
		s.CheckAtEnd(t)
		return s
	}
	a, b := part(0), part(32)
	timer := func(want string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join("/sys/block", disk, "device/timeout"))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("the kernel waits %q (%v) for %s, want %q", got, err, disk, want)
		}
	}
	says := func(s *rig.Set, want ...string) {
		t.Helper()
		out := strings.Join(strings.Fields(rig.Want(t, 0, "status", s.Name).Stdout), " ")
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("status %s does not say %q:\n%s", s.Name, w, out)
			}
		}
	}
	left := func() {
		t.Helper()
		if found, _ := filepath.Glob(filepath.Join(control.Dir(), ".drive-*")); len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
	rounds := func(set, unset func(), text ...string) {
		t.Helper()
		unset()
		a.Start(t, "--queues", "1")
		b.Start(t, "--queues", "1")
		set()
		says(a, text...)
		a.Kill(t)
		a.Start(t)
		set()
		says(a, text...)
		b.Kill(t)
		b.Stop(t) // without its server
		set()
		a.Stop(t)
		unset()
		left()
		a.Start(t, "--error-recovery", "keep")
		unset()
		says(a, disk+": no limit is set: left as it is")
		a.Stop(t)
	}
	signalled := func() {
		t.Helper()
		a.Start(t, "--queues", "1")
		pid := a.PID()
		a.LetDie()
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		rig.Until(t, "the server's end", func() bool {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		})
		a.Dev = ""
	}
	t.Run("kernel", func(t *testing.T) {
		rounds(func() { timer("180") }, func() { timer("30") }, disk+": no limit is set",
			"the kernel waits 3m0s for it (was 30s)")
		signalled()
		timer("30")
		left()
	})
	t.Run("drive", func(t *testing.T) {
		dir := t.TempDir()
		limits := filepath.Join(dir, "limits")
		for name, text := range map[string]string{"limits": "0 0\n",
			"smartctl": strings.ReplaceAll(smartctl, "FILE", limits)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		want := func(text string) func() {
			return func() {
				t.Helper()
				if got, err := os.ReadFile(limits); err != nil || string(got) != text+"\n" {
					t.Errorf("the drive has the limits %q (%v), want %q", got, err, text)
				}
				timer("30")
			}
		}
		rounds(want("70 70"), want("0 0"), disk+" gives up after 7s (had no limit before)")
		// A drive that was without power has forgotten it.
		a.Start(t, "--error-recovery", "10s")
		want("100 100")()
		if err := os.WriteFile(limits, []byte("0 0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		rig.Want(t, rig.ExitFailed, "resume", a.Name) // the breaker is not open
		want("100 100")()
		a.Stop(t)
		want("0 0")()
		left()
		// The server has no smartctl any more when it is stopped by a signal.
		signalled()
		want("70 70")()
		rig.Want(t, 0, "doctor", "--fix")
		want("0 0")()
		left()
	})
}
