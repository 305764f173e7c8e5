package alert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Hooks are programs of a directory that are run for each notice, one after the other, in the order
// of their names, as the zedlets of ZFS are.
type Hooks struct {
	Dir   string
	Named bool          // the settings name it, so it has to be there
	Limit time.Duration // for each of them
	Log   *slog.Logger
}

// Name implements NoticeWay.
func (*Hooks) Name() string { return "hooks" }

// skipped are the endings of files that package managers and editors leave.
var skipped = []string{"~", ".bak", ".orig", ".rej", ".swp", ".dpkg-old", ".dpkg-dist",
	".dpkg-new", ".dpkg-tmp", ".ucf-old", ".ucf-new", ".ucf-dist", ".rpmsave", ".rpmnew",
	".rpmorig"}

// list returns the paths of the hooks, in order.
func (w *Hooks) list() ([]string, error) {
	entries, err := os.ReadDir(w.Dir) // sorted
	if errors.Is(err, fs.ErrNotExist) && w.Named {
		return nil, fmt.Errorf("%w; make it, or take hooks out of monitor.conf", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []string
names:
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "README") {
			continue
		}
		for _, s := range skipped {
			if strings.HasSuffix(e.Name(), s) {
				continue names
			}
		}
		path := filepath.Join(w.Dir, e.Name())
		// What is not executable is switched off.
		if st, err := os.Stat(path); err == nil && (!st.Mode().IsRegular() ||
			st.Mode()&0o111 == 0) {
			continue
		}
		all = append(all, path)
	}
	return all, err
}

// none says so if there is no hook; empty: there is one.
func (w *Hooks) none() string {
	if all, err := w.list(); err != nil || len(all) > 0 {
		return ""
	}
	return "there is none in " + w.Dir
}

// Check implements Checker.
func (w *Hooks) Check() error {
	all, err := w.list()
	for _, path := range all {
		err = errors.Join(err, hookTrusted(path))
	}
	return err
}

func hookTrusted(path string) error {
	err := trustedProgram(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("hook %w; mend or remove it", err)
	}
	return err
}

// Take implements NoticeWay. A hook that fails keeps nothing of the others.
func (w *Hooks) Take(ctx context.Context, host string, n *Notice) error {
	all, err := w.list()
	failed := []error{err}
	for _, path := range all {
		if err := hookTrusted(path); err != nil {
			failed = append(failed, err)
			continue
		}
		out, err := runProgram(ctx, w.Limit, []string{path}, n.environment(host), nil)
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("hook %w", err))
		case out != "":
			w.Log.Info("a hook says", "hook", path, "alert", n.Kind, "set", n.Set, "output", out)
		}
	}
	return errors.Join(failed...)
}
