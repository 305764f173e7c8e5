package host

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestDying: a living process does not count as dying. A process that was killed does, from that
// moment on, before anybody has waited for it and after it is gone.
func TestDying(t *testing.T) {
	if dying(os.Getpid()) {
		t.Error("this process dies")
	}
	for range 20 {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		if dying(pid) {
			t.Error("a process dies that was just started")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// Between the signal and the flag it may look alive for a moment.
		for deadline := time.Now().Add(time.Minute); !dying(pid); {
			if time.Now().After(deadline) {
				t.Fatal("it was killed and does not die")
			}
		}
		_ = cmd.Wait()
		if !dying(pid) {
			t.Error("it is gone and does not die")
		}
	}
}
