package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoModule is returned for a module that a kernel neither has as a file nor
// built in.
var ErrNoModule = errors.New("no such module")

// Modules is a kernel's module index, as depmod writes it. Names have no
// directory and no suffix; dash and underscore are the same in them.
type Modules struct {
	// Dir is the directory that the paths below are relative to.
	Dir     string
	paths   map[string]string   // name → path
	deps    map[string][]string // name → paths, nearest dependency first
	builtin map[string]bool
	aliases map[string]string // exact aliases only; patterns are for udev
}

// ReadModules reads modules.dep, modules.builtin and modules.alias of dir, of
// which only the first must exist.
func ReadModules(dir string) (*Modules, error) {
	m := &Modules{Dir: dir, paths: map[string]string{}, deps: map[string][]string{},
		builtin: map[string]bool{}, aliases: map[string]string{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) error {
		path, deps, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("modules.dep: no colon in %q", line)
		}
		name := ModuleName(path)
		m.paths[name] = path
		m.deps[name] = strings.Fields(deps)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, "modules.builtin"), func(line string) error {
		m.builtin[ModuleName(line)] = true
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, "modules.alias"), func(line string) error {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "alias" && !strings.ContainsAny(f[1], "*?[") {
			m.aliases[canonical(f[1])] = canonical(f[2])
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return m, nil
}

func eachLine(path string, fn func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return scanLines(f, fn)
}

func scanLines(r io.Reader, fn func(string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := fn(line); err != nil {
			return err
		}
	}
	return s.Err()
}

// ModuleName is the canonical name of a module file:
// kernel/fs/dm-mod.ko.xz becomes dm_mod.
func ModuleName(path string) string {
	base := filepath.Base(path)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	return canonical(base)
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Closure returns the files, relative to Dir, that the named modules need, in
// an order in which they can be loaded: each after everything that it depends
// on. A module that is built in needs no file.
func (m *Modules) Closure(names ...string) ([]string, error) {
	var order []string
	for _, n := range names {
		name := canonical(n)
		if _, ok := m.paths[name]; !ok {
			if target, ok := m.aliases[name]; ok {
				name = target
			}
		}
		if m.builtin[name] {
			continue
		}
		path, ok := m.paths[name]
		if !ok {
			return nil, fmt.Errorf("%w: %s", ErrNoModule, n)
		}
		// modules.dep lists the transitive closure, what is needed first last.
		chain := append([]string{path}, m.deps[name]...)
		slices.Reverse(chain)
		for _, p := range chain {
			if !slices.Contains(order, p) {
				order = append(order, p)
			}
		}
	}
	return order, nil
}

// Has says whether the kernel has the module, as a file or built in.
func (m *Modules) Has(name string) bool {
	_, err := m.Closure(name)
	return err == nil
}
