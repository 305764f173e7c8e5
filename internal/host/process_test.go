package host

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestDying: a process that lives does not die; one that was killed does from the
// moment on that it was, also while nobody has waited for it, and when it is gone.
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
		// Between the signal and the flag it may look alive for an instant.
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
