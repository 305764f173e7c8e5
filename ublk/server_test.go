package ublk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// serverEnv makes the test binary a server: "create FILE ZEROCOPY QUEUES DEPTH DELAY_US" or "recover FILE ID".
const serverEnv = "UBLK_TEST_SERVER"

func serverMain() int {
	if err := serverRun(strings.Fields(os.Getenv(serverEnv))); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	return 0
}

func serverRun(args []string) error {
	ctx := context.Background()
	f, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	target, err := ublktest.NewFile(f)
	if err != nil {
		return err
	}
	ctl, err := ublk.OpenControl()
	if err != nil {
		return err
	}
	number := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }
	var dev *ublk.Device
	if args[0] == "create" {
		cfg := ublk.Config{ID: ublk.AnyID, ZeroCopy: ublk.Choice(number(2)), Queues: number(3), Depth: number(4), Recovery: ublk.Require, Params: target.Params()}
		target.Delay = time.Duration(number(5)) * time.Microsecond
		dev, err = ublk.Create(ctx, ctl, cfg)
	} else {
		dev, err = ublk.Recover(ctx, ctl, number(2))
	}
	if err != nil {
		return err
	}
	go func() {
		<-dev.Ready()
		fmt.Println("live", dev.Info().ID)
	}()
	return dev.Run(ctx, target, ublk.RunOptions{IOFlusher: true})
}

// server is another process that serves.
type server struct {
	cmd *exec.Cmd
	id  int
}

func startServer(t *testing.T, args ...any) *server {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+strings.TrimSpace(fmt.Sprintln(args...)))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, serr := fmt.Sscanf(line, "live %d", &s.id); serr != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the server says %q (%v)", line, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return s
}

// kill is SIGKILL. The process may take a while to be gone.
func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

func backingFile(t *testing.T, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "backing")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// stopAndDelete is what anybody can do to a device.
func stopAndDelete(t *testing.T, ctl *ublk.Control, id int) {
	t.Helper()
	if err := ctl.Stop(within(t), id); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := ctl.Delete(within(t), id); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// The server is killed again and again under I/O; each time another takes the device over, and the client notices
// nothing but a pause.
func TestRecoveryUnderLoad(t *testing.T) {
	control(t)
	eachMode(t, func(t *testing.T, zero ublk.Choice) {
		ctl := control(t)
		const size = 16 << 20
		file := backingFile(t, size)
		s := startServer(t, "create", file, int(zero), 2, 16, 0)
		f := openDirect(t, fmt.Sprintf("/dev/ublkb%d", s.id))
		e := newExerciser(t, f, size, 8, 512, 256<<10)
		e.start(0)
		for round := range 4 {
			for target := e.ops.Load() + 100; e.ops.Load() < target; {
				time.Sleep(time.Millisecond)
			}
			s.kill(t)
			start := time.Now()
			s = startServer(t, "recover", file, s.id)
			t.Logf("round %d: live %v after the kill", round, time.Since(start).Round(time.Millisecond))
		}
		for target := e.ops.Load() + 100; e.ops.Load() < target; {
			time.Sleep(time.Millisecond)
		}
		if err := e.halt(); err != nil {
			t.Error(err)
		}
		if err := e.verify(); err != nil {
			t.Error(err)
		}
		f.Close()
		stopAndDelete(t, ctl, s.id)
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("the last server: %v", err)
		}
	})
}

// A device whose server was killed can be stopped and deleted by anybody. When every tag was in the server's hands,
// kernels before 6.15 notice its death only by the request timeout.
func TestKilledServersDeviceCanBeRemoved(t *testing.T) {
	control(t)
	eachMode(t, func(t *testing.T, zero ublk.Choice) {
		for _, c := range []struct {
			name         string
			depth, delay int // microseconds
		}{
			{"idle", 16, 0},
			{"busy", 64, 0},
			{"saturated", 4, 3600e6},
		} {
			t.Run(c.name, func(t *testing.T) {
				ctl := control(t)
				file := backingFile(t, 8<<20)
				// The partition scan at the start would wait for the delay as well.
				s := startServer(t, "create", file, int(zero), 1, c.depth, 0)
				var e *exerciser
				var f *os.File
				if c.name != "idle" {
					if c.delay > 0 {
						s.freeze(t)
					}
					f = openDirect(t, fmt.Sprintf("/dev/ublkb%d", s.id))
					e = newExerciser(t, f, 8<<20, 12, 512, 16<<10)
					e.start(0)
					if c.delay > 0 {
						time.Sleep(300 * time.Millisecond)
					} else {
						for e.ops.Load() < 50 {
							time.Sleep(time.Millisecond)
						}
					}
				}
				s.kill(t)
				start := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), ublk.DefaultTimeout)
				defer cancel()
				if err := ctl.Stop(ctx, s.id); err != nil {
					t.Fatalf("stop after %v: %v", time.Since(start), err)
				}
				stopped := time.Since(start)
				if e != nil {
					if err := e.halt(); err == nil {
						t.Error("I/O goes on without a server")
					}
					f.Close()
				}
				if err := ctl.Delete(within(t), s.id); err != nil {
					t.Fatal(err)
				}
				t.Logf("stopped %v after the kill, gone after %v", stopped.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
			})
		}
	})
}

// freeze stops the process, so that all tags come to be in its hands.
func (s *server) freeze(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func TestLeaveAndRecover(t *testing.T) {
	eachMode(t, func(t *testing.T, zero ublk.Choice) {
		ctl := control(t)
		r := ram(t, 8<<20)
		dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, Queues: 2, ZeroCopy: zero, Recovery: ublk.Require, Params: r.Params()})
		if err != nil {
			t.Fatal(err)
		}
		s := run(t, ctl, dev, r, ublk.RunOptions{})
		f := openDirect(t, dev.Info().BlockPath())
		e := newExerciser(t, f, r.Size(), 6, 512, 64<<10)
		e.start(0)
		for round := range 3 {
			for target := e.ops.Load() + 50; e.ops.Load() < target; {
				time.Sleep(time.Millisecond)
			}
			if err := s.Leave(within(t)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if err := <-s.done; err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			next, err := ublk.Recover(within(t), ctl, dev.Info().ID)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if next.Info().Features != dev.Info().Features || next.Params().Size != dev.Params().Size || next.Info().Depth != dev.Info().Depth {
				t.Errorf("round %d: recovered as %+v", round, next.Info())
			}
			s = run(t, ctl, next, r, ublk.RunOptions{})
		}
		if err := e.halt(); err != nil {
			t.Error(err)
		}
		if err := e.verify(); err != nil {
			t.Error(err)
		}
		f.Close()
		s.remove(t)
	})
}

func TestQuiesce(t *testing.T) {
	ctl := control(t)
	needFeature(t, ctl, ublk.FeatureQuiesce)
	r := ram(t, 8<<20)
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, Recovery: ublk.Require, Params: r.Params()})
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, ctl, dev, r, ublk.RunOptions{})
	f := openDirect(t, dev.Info().BlockPath())
	e := newExerciser(t, f, r.Size(), 4, 512, 64<<10)
	e.start(0)
	for e.ops.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	if err := ctl.Quiesce(within(t), dev.Info().ID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	info, err := ctl.Info(within(t), dev.Info().ID)
	if err != nil || info.State != ublk.StateQuiesced {
		t.Fatalf("%+v, %v", info, err)
	}
	next, err := ublk.Recover(within(t), ctl, dev.Info().ID)
	if err != nil {
		t.Fatal(err)
	}
	s = run(t, ctl, next, r, ublk.RunOptions{})
	if err := e.halt(); err != nil {
		t.Error(err)
	}
	if err := e.verify(); err != nil {
		t.Error(err)
	}
	f.Close()
	s.remove(t)
}

func TestRecoveryThatCannotBe(t *testing.T) {
	ctl := control(t)
	if _, err := ublk.Recover(within(t), ctl, 4711); !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("no device: %v", err)
	}
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Recovery: ublk.Never, Params: r.Params()}, ublk.RunOptions{})
	if _, err := ublk.Recover(within(t), ctl, s.Info().ID); !errors.Is(err, ublk.ErrNotRecoverable) {
		t.Errorf("a device without recovery: %v", err)
	}
	live := serve(t, r, ublk.Config{ID: ublk.AnyID, Recovery: ublk.Require, Params: r.Params()}, ublk.RunOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := ublk.Recover(ctx, ctl, live.Info().ID); !errors.Is(err, ublk.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a device with a living server: %v", err)
	}
}
