package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/rs/zerolog"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/server"
)

// own are the options that are flags of this verb only.
func (o *startOptions) own(a *app) []config.Option { return o.all[:len(o.all)-len(a.logFlags)] }

// config returns the configuration of the server.
func (r *startRun) config() (server.Config, error) {
	cfg, err := r.startOptions.config()
	cfg.Predecessor, cfg.Kill, cfg.Token = r.predecessor, r.kill, r.token
	cfg.Version, cfg.RootStorage = programVersion(), r.rootStorage
	cfg.Options, cfg.KeptOptions = r.texts(), kept(r.all)
	if r.detached || r.foreground {
		cfg.Signals = askedByEach()
	}
	return cfg, err
}

// warn logs warnings about the configuration. It is called when the log is open.
func (r *startRun) warn(log zerolog.Logger) {
	for _, w := range r.warnings {
		log.Warn().Msg(w)
	}
}

// texts returns the options that do not have their defaults, for the record of the server. The
// record has the disks already.
func (o *startOptions) texts() map[string]string {
	all := map[string]string{}
	for i := range o.all {
		if opt := &o.all[i]; !opt.Path && !opt.NoFlag && opt.Set() {
			all[opt.Name] = opt.Value.String()
		}
	}
	return all
}

// kept returns the names of the options that are set when a device is made.
func kept(options []config.Option) []string {
	var all []string
	for _, o := range options {
		if o.Change == config.Restart && !o.Path && !o.NoFlag {
			all = append(all, o.Name)
		}
	}
	return all
}

// readFile returns the file of a set, or nil if there is none.
func (r *startRun) readFile(name string) (*config.File, error) {
	if r.noConfig {
		return nil, nil
	}
	f, err := config.Read(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, config.ErrName) {
		return nil, nil // a name that no file can have has no file
	}
	return f, err
}

// find finds the disk that the user means, and applies the file of its set.
func (r *startRun) find(ctx context.Context, what string) (*host.Backing, error) {
	b, err := r.findDisk(ctx, what)
	if err != nil {
		return nil, err
	}
	id := setOf(b)
	return b, r.applyFile(ctx, &id)
}

// findDisk finds the disk. The disk in the file of a set counts if the user gave the set's name and
// the set has no device. If there is a device, its disk is known.
func (r *startRun) findDisk(ctx context.Context, what string) (*host.Backing, error) {
	if strings.Contains(what, "/") || host.Active(what) {
		return host.FindBacking(ctx, what, "")
	}
	file, err := r.readFile(what)
	said := newStartOptions(nil)
	if err == nil {
		err = checkFile(file, said)
	}
	if err != nil {
		// A device without a record is recovered without the file.
		b, findErr := host.FindBacking(ctx, what, "")
		if findErr != nil {
			return nil, err
		}
		return b, nil
	}
	var b *host.Backing
	if said.backing == "" {
		b, err = host.FindBacking(ctx, what, said.uuid)
	} else if b, err = host.BackingAt(ctx, said.backing); err != nil {
		err = fmt.Errorf("%s: backing: %w", file.Path, err)
	}
	if err != nil || file == nil {
		return b, err
	}
	return b, rightSet(file, said, setOf(b))
}

// checkFile sets options from a file. The options must have their defaults before.
func checkFile(file *config.File, o *startOptions) error {
	err := file.Apply(o.all, nil)
	if err == nil && file != nil {
		if _, err = o.config(); err != nil {
			err = &config.Problem{Path: file.Path, Message: err.Error(), Err: config.ErrInvalid}
		}
	}
	return err
}

// rightSet refuses a file that belongs to another set than the disk. said is the UUID in the file.
func rightSet(file *config.File, said *startOptions, id set.Identity) error {
	var s *config.Setting
	var why string
	switch uuid := file.Setting("uuid"); {
	case file == nil:
		return nil
	case id.Name != file.Name:
		s = cmp.Or(file.Setting("backing"), uuid)
		why = fmt.Sprintf("%s carries the set %q, and this is the file of %q; name the disk of "+
			"%[3]q, or rename the file", cmp.Or(said.backing, "its disk"), id.Name, file.Name)
	case uuid != nil && !strings.EqualFold(said.uuid, id.UUID.String()):
		s = uuid
		why = fmt.Sprintf("the file is for another set of this name: the disk carries %s; remove "+
			"the line if that one is meant", id.UUID)
	default:
		return nil
	}
	p := file.At(s, "refused: %s", why)
	p.Err = config.ErrRefused
	return p
}

// applyFile sets the options that no flag has set, from the file of the set that was found.
//
// A device that waits for its server must not wait because its file has an error. It then gets the
// options that its last server had. Properties that are set when a device is made stay.
func (r *startRun) applyFile(ctx context.Context, id *set.Identity) error {
	file, err := r.readFile(id.Name)
	if file == nil && err == nil {
		return nil
	}
	said := newStartOptions(nil)
	if err == nil {
		err = checkFile(file, said)
	}
	if err == nil {
		err = rightSet(file, said, *id)
	}
	record, waits := host.DeviceOfSet(ctx, *id)
	switch {
	case err != nil && (!waits || r.predecessor != 0):
		return err
	case err != nil:
		r.likeBefore(record, err)
		return nil
	}
	err = file.Apply(r.all, func(o *config.Option) bool {
		if r.flags.Changed(o.Name) {
			return true
		}
		// The record has the spare devices. Without a record only the file may have them.
		return waits && o.Change == config.Restart && (record != nil || o.Name != "spare-device")
	})
	if err != nil {
		return err
	}
	_, err = r.startOptions.config() // flags and file can contradict each other
	return err
}

// likeBefore takes the options of the last server. why is the error of the file.
func (r *startRun) likeBefore(record *control.Record, why error) {
	r.warnings = append(r.warnings, exit.Line(why)+"; the device goes on with what its last "+
		"server had")
	if record == nil {
		return
	}
	for name, text := range record.Options {
		if o := config.Find(r.all, name); o != nil && o.Change == config.Reload &&
			!r.flags.Changed(name) {
			_ = o.Value.Set(text) // another version may have written the record
		}
	}
}
