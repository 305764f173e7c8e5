package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/server"
)

// logWait is how long a server that ends waits until its last lines are written.
const logWait = 2 * time.Second

// serveInForeground runs the server in this process. With --adopt it takes the place of a server
// that nobody supervises, if the disk has one.
func (a *app) serveInForeground(ctx context.Context, b *host.Backing, r *startRun) error {
	cfg, err := r.config()
	if err != nil {
		return err
	}
	var old *predecessor
	if r.adopt {
		if old, err = predecessorOf(b.Superblock, &cfg); err != nil {
			return err
		}
		defer old.close()
	}
	// The reader of the log may wait for the device itself.
	lines, err := logging.Foreground(a.err, a.logFormat)
	if err != nil {
		return err
	}
	defer lines.Close(logWait)
	if cfg.Log, err = logging.New(lines, a.logLevel, a.logFormat); err != nil {
		return err
	}
	r.warn(cfg.Log)
	id := set.IdentityOf(b.Superblock)
	cfg.Backing, cfg.Known = b.Path, &id
	cfg.Opened = func() { leaveMounts(cfg.Log) }
	cfg.Progress = func(what string) {
		cfg.Log.Warn().Str("backing", cfg.Backing).Msg(what)
		// A supervisor must not treat the wait as a failure (sd_notify(3)). The message is repeated
		// before that time is over.
		notify(a.log, moreTime(3*host.SayEvery))
	}
	ready := false
	cfg.Ready = func(path string) {
		ready = true
		r.begun()
		if err := a.printStarted(path, b.Superblock); err != nil {
			a.log.Warn().Err(err).Msg("standard output")
		}
		notify(a.log, daemon.SdNotifyReady)
		startGuard(cfg.Log, &cfg)
	}
	a.supervise(&cfg)
	err = server.Run(ctx, cfg)
	drivesOfEnded(ctx, cfg.Log)
	if err != nil {
		if old == nil || ready {
			return err
		}
		return a.notAdopted(ctx, old, err)
	}
	return nil
}

// serveDetached is the server's process. It reports the result of the start to the parent.
// Everything else goes to the log file, once this server owns the name. Until then the log belongs
// to the server that has the name.
func serveDetached(ctx context.Context, a *app, what string, r *startRun) error {
	parent := newReport()
	var log detachedLog
	defer log.close()
	err := func() error {
		backing, id, err := r.received(ctx, what)
		if err != nil {
			return err
		}
		cfg, err := r.config()
		if err != nil {
			return err
		}
		cfg.Backing, cfg.Known = backing, id
		cfg.Log = zerolog.Nop()
		cfg.Owned = func(name string) (zerolog.Logger, error) {
			l, err := log.open(a, name)
			r.warn(l)
			return l, err
		}
		cfg.Opened = func() { leaveMounts(log.log) }
		cfg.Progress = parent.waiting
		var left time.Time
		cfg.Leaving = func() { left = time.Now() }
		a.supervise(&cfg)
		begun := a.beat()
		cfg.Ready = func(device string) {
			begun()
			live := report{Device: device, PID: os.Getpid()}
			if !left.IsZero() {
				live.Paused = time.Since(left)
			}
			parent.send(live)
			startGuard(log.log, &cfg)
		}
		err = server.Run(ctx, cfg)
		drivesOfEnded(ctx, log.log)
		if err != nil {
			log.log.Error().Err(err).Msg("the server ends")
		}
		return err
	}()
	parent.failed(err)
	return err
}

// received returns the disk that start has told this process about, and applies the file of its
// set. upgrade sends no handoff: it starts a server with the path of the disk.
func (r *startRun) received(ctx context.Context, what string) (string, *set.Identity, error) {
	t, err := receiveHandoff(what)
	if err != nil {
		return "", nil, err
	}
	if t != nil {
		return t.Backing, &t.Set, r.applyFile(ctx, &t.Set)
	}
	b, err := r.find(ctx, what)
	if err != nil {
		return "", nil, err
	}
	id := set.IdentityOf(b.Superblock)
	return b.Path, &id, nil
}

// detachedLog is the log file of a detached server.
type detachedLog struct {
	log   zerolog.Logger // not usable before open
	file  *logging.File
	lines *logging.Async
}

func (d *detachedLog) open(a *app, name string) (zerolog.Logger, error) {
	fresh := func() (*os.File, error) { return control.OpenLog(name) }
	path := control.LogPath(name)
	var err error
	if d.file, err = logging.OpenFile(path, control.OldLog(path), fresh); err != nil {
		return d.log, err
	}
	if err := crashTo(fresh); err != nil {
		return d.log, err
	}
	d.lines = logging.Detached(d.file)
	log, err := logging.New(d.lines, a.logLevel, "json")
	if err == nil {
		d.log = log.With().Str("name", name).Int("pid", os.Getpid()).Logger()
	}
	return d.log, err
}

func (d *detachedLog) close() {
	if d.lines != nil {
		d.lines.Close(logWait)
	}
	if d.file != nil {
		_ = d.file.Close()
	}
}

// crashTo makes the runtime append its report to a file if this process crashes. Nobody reads the
// standard error of a detached server.
func crashTo(open func() (*os.File, error)) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close() // the runtime has a descriptor of its own
	return debug.SetCrashOutput(f, debug.CrashOptions{})
}
