package hostile

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestCreateInterrupted ends create by each signal at random moments: on a blank disk, over another
// set, and in place. What is left is one of three: no set, which cannot be started and which create
// makes anew; a whole set; or a conversion that start refuses and that the same command finishes,
// with all data.
func TestCreateInterrupted(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	r := rig.Random(t)
	rounds := 1
	if vmtest.Full() {
		rounds = 10
	}
	ends := map[string]int{}
	for range rounds {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP,
			syscall.SIGKILL} {
			all := []string{"blank", "over a set", "in place"}
			if !vmtest.Full() {
				at := r.IntN(len(all))
				all = all[at : at+1]
			}
			for _, how := range all {
				disk := newFile(t)
				args := []string{"create", disk, "--spare", "1MiB", "--yes"}
				data := bytes.Repeat([]byte("not to be lost.\n"), 8<<20/16)
				switch how {
				case "over a set":
					rig.Remap(t, append(args, "--name", "before")...).Want(t, 0)
					args = append(args, "--force")
				case "in place":
					must(t, os.WriteFile(disk, data, 0o600))
					must(t, os.Truncate(disk, diskSize))
					args = append(args, "--force", "--in-place")
				}
				// A signal that comes too late does no harm, so no moment is wrong.
				cmd := exec.Command(vmtest.Binary(t), args...)
				must(t, cmd.Start())
				time.Sleep(time.Duration(r.Int64N(int64(120 * time.Millisecond))))
				_ = cmd.Process.Signal(sig)
				_ = cmd.Wait()

				what := how + ", " + sig.String()
				check := rig.Remap(t, "metadata", "check", disk)
				start := rig.Remap(t, "start", disk)
				switch {
				case start.Code == 0:
					ends["a whole set"]++
					if check.Code != 0 {
						t.Errorf("%s: it is started, but not in order: %s", what, check)
					}
				case start.Code == rig.ExitNotFound:
					ends["no set"]++
				case start.Code == rig.ExitRefused && how == "in place":
					ends["to be finished"]++
				default:
					t.Errorf("%s: %s", what, start)
				}
				if start.Code != 0 {
					refusal(t, "start after "+what, start, start.Code, disk)
					nothingLeft(t)
					rig.Remap(t, append(args, "--force")...).Want(t, 0)
					start = rig.Remap(t, "start", disk)
				}
				dev := start.Want(t, 0)
				if how == "in place" {
					d := rig.Open(t, dev)
					buf := rig.Aligned(len(data))
					must(t, d.Read(buf, 0))
					if !bytes.Equal(buf, data) {
						t.Errorf("%s: the data is not what it was", what)
					}
					d.Close()
				}
				rig.Remap(t, "stop", dev).Want(t, 0)
				rig.Remap(t, "metadata", "check", disk).Want(t, 0)
				must(t, os.Remove(disk))
			}
		}
	}
	t.Logf("left: %v", ends)
	nothingLeft(t)
}
