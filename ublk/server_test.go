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
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// serverEnv makes the test binary a server: "create FILE POLL ZEROCOPY BATCH QUEUES DEPTH
// HOLD" (HOLD 1: writes are never answered) or "recover FILE POLL ID".
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
	poll, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	number := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }
	var dev *ublk.Device
	if args[0] == "create" {
		cfg := ublk.Config{ID: ublk.AnyID, ZeroCopy: ublk.Choice(number(3)),
			BatchIO: ublk.Choice(number(4)), Queues: number(5), Depth: number(6),
			Recovery: ublk.Require, Params: target.Params()}
		if number(7) != 0 {
			target.Hold = func(r ublk.Request) bool { return r.Op == ublk.OpWrite }
		}
		dev, err = ublk.Create(ctx, ctl, cfg)
	} else {
		dev, err = ublk.Recover(ctx, ctl, number(3))
	}
	if err != nil {
		return err
	}
	go func() {
		<-dev.Ready()
		fmt.Println("live", dev.Info().ID)
	}()
	return dev.Run(ctx, target, ublk.RunOptions{IOFlusher: true, Poll: poll})
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
	cleanUp(t, s.id)
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

// cleanUp removes a device when the test ends, if it still is there: a process with I/O to
// a device without a server could not even exit.
func cleanUp(t *testing.T, id int) {
	t.Cleanup(func() {
		ctl, err := ublk.OpenControl()
		if err != nil {
			t.Error(err)
			return
		}
		defer ctl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if _, err := ctl.Info(ctx, id); errors.Is(err, ublk.ErrNotFound) {
			return
		}
		t.Errorf("device %d is still there", id)
		_ = ctl.Stop(ctx, id)
		_ = ctl.Delete(ctx, id)
	})
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

// stopAndDelete stops and deletes a device, as any process may.
func stopAndDelete(t *testing.T, ctl *ublk.Control, id int) {
	t.Helper()
	if err := ctl.Stop(within(t), id); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := ctl.Delete(within(t), id); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// The server is killed again and again under I/O; each time another one recovers the device,
// and the client notices nothing but a pause.
func TestRecoveryUnderLoad(t *testing.T) {
	control(t)
	eachMode(t, func(t *testing.T, m mode) {
		m.killable(t)
		ctl := control(t)
		const size = 16 << 20
		file := backingFile(t, size)
		s := startServer(t, "create", file, m.poll, int(m.zero), int(m.batch), 2, 16, 0)
		f := openDirect(t, fmt.Sprintf("/dev/ublkb%d", s.id))
		e := newExerciser(t, f, size, 8, 512, 256<<10)
		e.start(0)
		for round := range 3 {
			e.more(100)
			s.kill(t)
			start := time.Now()
			s = startServer(t, "recover", file, m.poll, s.id)
			t.Logf("round %d: live %v after the kill", round,
				time.Since(start).Round(time.Millisecond))
		}
		e.more(100)
		e.finish(t)
		f.Close()
		stopAndDelete(t, ctl, s.id)
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("the last server: %v", err)
		}
	})
}

// A device whose server was killed can be stopped and deleted by anybody. If the server owned every
// tag, kernels before 6.15 notice its death only by the request timeout.
func TestKilledServersDeviceCanBeRemoved(t *testing.T) {
	control(t)
	eachMode(t, func(t *testing.T, m mode) {
		m.killable(t)
		for _, c := range []struct {
			name  string
			depth int
		}{
			{"idle", 16},
			{"busy", 64},
			{"frozen", 4},
			{"saturated", 4},
		} {
			t.Run(c.name, func(t *testing.T) {
				ctl := control(t)
				file := backingFile(t, 8<<20)
				hold := 0
				if c.name == "saturated" {
					hold = 1
				}
				s := startServer(t, "create", file, m.poll, int(m.zero), int(m.batch), 1, c.depth,
					hold)
				var e *exerciser
				var f *os.File
				if c.name != "idle" {
					// Opened before the freeze: the kernel may still be looking for
					// partitions, and opening waits for that.
					f = openDirect(t, fmt.Sprintf("/dev/ublkb%d", s.id))
					if c.name == "frozen" {
						s.freeze(t)
					}
					e = newExerciser(t, f, 8<<20, 12, 512, 16<<10)
					e.start(0)
					if c.name != "busy" {
						for !saturated(s.id, c.depth) {
							time.Sleep(time.Millisecond)
						}
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
				t.Logf("stopped %v after the kill, gone after %v", stopped.Round(time.Millisecond),
					time.Since(start).Round(time.Millisecond))
			})
		}
	})
}

// saturated reports whether all requests that the device can have are in flight.
func saturated(id, depth int) bool {
	var reads, writes int
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/inflight", id))
	if err != nil {
		return false
	}
	_, _ = fmt.Sscan(string(b), &reads, &writes)
	return reads+writes >= depth
}

// freeze stops the process, so that it comes to own all tags.
func (s *server) freeze(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// Old kernels notice late that a server has died that owned every tag. The next server must get all
// of them.
func TestRecoveryOfASaturatedQueue(t *testing.T) {
	control(t)
	eachMode(t, func(t *testing.T, m mode) {
		m.killable(t)
		ctl := control(t)
		const size, depth = 8 << 20, 4
		file := backingFile(t, size)
		s := startServer(t, "create", file, m.poll, int(m.zero), int(m.batch), 1, depth, 1)
		f := openDirect(t, fmt.Sprintf("/dev/ublkb%d", s.id))
		e := newExerciser(t, f, size, 12, 512, 16<<10)
		e.start(50)
		for !saturated(s.id, depth) {
			time.Sleep(time.Millisecond)
		}
		s.kill(t)
		start := time.Now()
		s = startServer(t, "recover", file, m.poll, s.id)
		t.Logf("live %v after the kill", time.Since(start).Round(time.Millisecond))
		if err := e.wait(); err != nil {
			t.Error(err)
		}
		if err := e.verify(); err != nil {
			t.Error(err)
		}
		f.Close()
		stopAndDelete(t, ctl, s.id)
	})
}

// A handler that never answers keeps the device from being stopped, but not the server from ending.
func TestStopOfAStuckServer(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 1<<20)
		var held atomic.Bool // not a read of the kernel, which looks for partitions
		r.Hold = func(q ublk.Request) bool {
			if q.Op == ublk.OpWrite {
				held.Store(true)
			}
			return q.Op == ublk.OpWrite
		}
		s := serve(t, r, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Recovery: ublk.Never, Params: r.Params()}, m.options())
		f := openDirect(t, s.Info().BlockPath())
		buf := aligned(t, 4096)
		wrote := make(chan error, 1)
		go func() {
			_, err := f.WriteAt(buf, 0)
			wrote <- err
		}()
		for !held.Load() {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if err := s.Stop(ctx); !errors.Is(err, ublk.ErrTimeout) {
			t.Fatalf("stop: %v", err)
		}
		if err := s.Leave(within(t)); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-wrote:
			if err == nil {
				t.Error("the write was acknowledged")
			}
		case <-time.After(limit):
			t.Fatal("the write hangs")
		}
		f.Close()
	})
}

// recoverable makes a recoverable device over a RAM disk, serves it, and begins to read and write
// it with that many workers.
func recoverable(t *testing.T, m mode, depth, workers int) (ctl *ublk.Control, r *ublktest.RAM,
	s *served, f *os.File, e *exerciser) {
	t.Helper()
	ctl, r = control(t), ram(t, 8<<20)
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, Queues: 2, Depth: depth,
		ZeroCopy: m.zero, BatchIO: m.batch, Recovery: ublk.Require, Params: r.Params()})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, dev.Info().ID)
	s = run(t, ctl, dev, r, m.options())
	f = openDirect(t, dev.Info().BlockPath())
	e = newExerciser(t, f, r.Size(), workers, 512, 64<<10)
	e.start(0)
	return ctl, r, s, f, e
}

// leaves lets a server leave its device, and waits until its threads have ended.
func (s *served) leaves(t *testing.T) {
	t.Helper()
	if err := s.Leave(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
}

func TestLeaveAndRecover(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		ctl, r, s, f, e := recoverable(t, m, 0, 6)
		dev := s.Device
		for round := range 3 {
			e.more(50)
			s.leaves(t)
			next, err := ublk.Recover(within(t), ctl, dev.Info().ID)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if next.Info().Features != dev.Info().Features ||
				next.Params().Size != dev.Params().Size || next.Info().Depth != dev.Info().Depth {
				t.Errorf("round %d: recovered as %+v", round, next.Info())
			}
			s = run(t, ctl, next, r, m.options())
		}
		e.finish(t)
		f.Close()
		s.remove(t)
	})
}

// A server that leaves with all of its tags in use, and more requests waiting. Before Linux 6.16
// the kernel would not notice for 30 seconds that it is gone, if the server did nothing about that.
func TestLeaveSaturated(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		ctl, r, s, f, e := recoverable(t, m, 2, 12)
		dev := s.Device
		for round := range 4 {
			e.more(30)
			// The kernel makes no more queues than there are CPUs.
			for !saturated(dev.Info().ID, dev.Info().Queues*dev.Info().Depth) {
				time.Sleep(100 * time.Microsecond)
			}
			began := time.Now()
			s.leaves(t)
			left := time.Since(began)
			next, err := ublk.Recover(within(t), ctl, dev.Info().ID)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			s = run(t, ctl, next, r, m.options())
			took := time.Since(began)
			t.Logf("round %d: left after %v, live after %v", round, left, took)
			// The kernel's timeout is 30 s.
			if took > 25*time.Second {
				t.Errorf("round %d: the kernel did not notice that the server was gone: live "+
					"after %v", round, took)
			}
		}
		e.finish(t)
		f.Close()
		s.remove(t)
	})
}

// A device that another process quiesces goes to the next server, whatever its requests are doing:
// its server answers what it has and ends.
func TestQuiesce(t *testing.T) {
	needFeature(t, control(t), ublk.FeatureQuiesce)
	const depth = 4
	for _, c := range []struct {
		name    string
		workers int // goroutines that do I/O
		inHand  int // requests that the server has at the time, at least
		delay   time.Duration
	}{
		{"idle", 0, 0, 0},
		{"under way", depth, 0, 0},
		{"some in hand", depth - 1, 1, 300 * time.Millisecond},
		{"all in hand", 3 * depth, depth, 300 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				if m.batch == ublk.Require {
					t.Skip("a device with batch I/O cannot be quiesced")
				}
				testQuiesce(t, m, depth, c.workers, c.inHand, c.delay)
			})
		})
	}
}

// Linux 7.3 fails the requests of a device with batch I/O that is quiesced, so quiescing is
// refused.
func TestBatchIsNotQuiesced(t *testing.T) {
	ctl := control(t)
	needFeature(t, ctl, ublk.FeatureBatchIO)
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, BatchIO: ublk.Require, Recovery: ublk.Require,
		Params: r.Params()}, ublk.RunOptions{})
	if err := ctl.Quiesce(within(t), s.Info().ID, time.Second); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("quiesce: %v", err)
	}
	f := openDirect(t, s.Info().BlockPath())
	defer f.Close()
	if _, err := f.WriteAt(aligned(t, 4096), 0); err != nil {
		t.Errorf("after it was refused: %v", err)
	}
}

func testQuiesce(t *testing.T, m mode, depth, workers, inHand int, delay time.Duration) {
	ctl := control(t)
	r := ram(t, 8<<20)
	r.Delay = delay
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, Queues: 1, Depth: depth,
		ZeroCopy: m.zero, BatchIO: m.batch, Recovery: ublk.Require, Params: r.Params()})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, dev.Info().ID)
	s := run(t, ctl, dev, r, m.options())
	f := openDirect(t, dev.Info().BlockPath())
	e := newExerciser(t, f, r.Size(), max(1, workers), 512, 64<<10)
	if workers > 0 {
		e.start(0)
		for delay == 0 && e.ops.Load() < 50 {
			time.Sleep(time.Millisecond)
		}
		for !saturated(dev.Info().ID, inHand) {
			time.Sleep(time.Millisecond)
		}
	}
	for told := false; !told; {
		// A single Quiesce can miss a server that owns all tags.
		if err := ctl.Quiesce(within(t), dev.Info().ID, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-s.done:
			if err != nil {
				t.Fatal(err)
			}
			told = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	next, err := ublk.Recover(within(t), ctl, dev.Info().ID)
	if err != nil {
		t.Fatal(err)
	}
	r.Delay = 0
	s = run(t, ctl, next, r, m.options())
	if workers == 0 {
		e.start(0)
	}
	for before := e.ops.Load(); e.ops.Load() < before+50; {
		time.Sleep(time.Millisecond)
	}
	e.finish(t)
	f.Close()
	s.remove(t)
}

func TestRecoveryThatCannotBe(t *testing.T) {
	ctl := control(t)
	if _, err := ublk.Recover(within(t), ctl, 4711); !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("no device: %v", err)
	}
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Recovery: ublk.Never, Params: r.Params()},
		ublk.RunOptions{})
	if _, err := ublk.Recover(within(t), ctl, s.Info().ID); !errors.Is(err,
		ublk.ErrNotRecoverable) {
		t.Errorf("a device without recovery: %v", err)
	}
	live := serve(t, r, ublk.Config{ID: ublk.AnyID, Recovery: ublk.Require, Params: r.Params()},
		ublk.RunOptions{})
	// Long enough for at least one answer on a slow machine.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := ublk.Recover(ctx, ctl, live.Info().ID); !errors.Is(err, ublk.ErrBusy) ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a device with a living server: %v", err)
	}
}
