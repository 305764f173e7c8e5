package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kernel is one unpacked kernel.
type Kernel struct {
	// Release is what uname -r prints in it, such as 6.12.117+deb12-cloud-amd64.
	Release string
	// Image is the path of the bzImage or, in user mode, of the program.
	Image string
	// UserMode says that the kernel is a program of the host, user-mode Linux.
	UserMode bool
	// ModuleDir is the path of lib/modules/RELEASE, with modules.dep.
	ModuleDir string
}

// ErrNotAKernel is returned when a directory does not hold one kernel image
// and the modules that belong to it.
var ErrNotAKernel = errors.New("not an unpacked kernel")

// Open reads the kernel unpacked in dir: dir/vmlinuz (dir/linux is user-mode
// Linux) and exactly one dir/lib/modules/RELEASE with a modules.dep.
func Open(dir string) (*Kernel, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	image, userMode := filepath.Join(real, "linux"), true
	if _, err := os.Stat(image); err != nil {
		image, userMode = filepath.Join(real, "vmlinuz"), false
	}
	if _, err := os.Stat(image); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dir, ErrNotAKernel, err)
	}
	deps, err := filepath.Glob(filepath.Join(real, "lib/modules/*/modules.dep"))
	if err != nil {
		return nil, err
	}
	if len(deps) != 1 {
		return nil, fmt.Errorf("%s: %w: %d directories with a modules.dep", dir, ErrNotAKernel,
			len(deps))
	}
	modules := filepath.Dir(deps[0])
	return &Kernel{Release: filepath.Base(modules), Image: image, ModuleDir: modules,
		UserMode: userMode}, nil
}

// Get returns the kernel that name stands for: a directory if it contains a
// slash, else a series such as 6.12, which is fetched into cache unless it is
// there already. With update a series is looked up again even then. Progress
// goes to logf.
func Get(cache, name string, update bool, logf func(string, ...any)) (*Kernel, error) {
	if strings.Contains(name, "/") {
		return Open(name)
	}
	if !validSeries(name) {
		return nil, fmt.Errorf("kernel %q is neither a series such as 6.12 nor a directory", name)
	}
	link := filepath.Join(cache, "kernels", name)
	if !update {
		if k, err := Open(link); err == nil {
			return k, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return nil, err
	}
	unlock, err := Lock(filepath.Dir(link), "lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !update {
		// Another process may have fetched it while this one waited.
		if k, err := Open(link); err == nil {
			return k, nil
		}
	}
	if err := fetch(cache, name, link, logf); err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w", name, err)
	}
	return Open(link)
}

// validSeries accepts MAJOR.MINOR, in digits.
func validSeries(s string) bool {
	major, minor, ok := strings.Cut(s, ".")
	return ok && digits(major) && digits(minor)
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
