package uml

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"ublkremap/test/vmtest/kernel"
)

// Name is what user-mode Linux is called where else a kernel series is named.
const Name = "uml"

// series is the newest series whose source Debian has. It has all of ublk's features.
const series = "7.3"

// ErrNotBuilt is returned when the cache has no user-mode Linux.
var ErrNotBuilt = errors.New("user-mode Linux has not been built here; do it with: make uml")

//go:embed config
var config []byte

// Get returns the kernel that was built before, ErrNotBuilt if none was. One
// that was built with another configuration is reported to logf and used anyway.
func Get(cache string, logf func(string, ...any)) (*kernel.Kernel, error) {
	link := filepath.Join(cache, "kernels", Name)
	k, err := kernel.Open(link)
	if err != nil {
		return nil, ErrNotBuilt
	}
	if !current(link) {
		logf("user-mode Linux was built with another configuration than the tree has now; make " +
			"uml builds it again")
	}
	return k, nil
}

// Build returns the kernel, and builds it first if the cache has none of this
// configuration; with update also if Debian may have a newer source.
func Build(cache string, update bool, logf func(string, ...any)) (*kernel.Kernel, error) {
	kernels := filepath.Join(cache, "kernels")
	link := filepath.Join(kernels, Name)
	if err := os.MkdirAll(kernels, 0o755); err != nil {
		return nil, err
	}
	// The build has a lock of its own, so that a process that only wants one of Debian's kernels
	// does not wait for a compiler.
	unlock, err := kernel.Lock(kernels, Name+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if k, err := kernel.Open(link); err == nil && !update && current(link) {
		return k, nil
	}
	if err := build(cache, kernels, link, logf); err != nil {
		return nil, fmt.Errorf("build user-mode Linux: %w", err)
	}
	return kernel.Open(link)
}

// stamp stands for the configuration and, if there is one, the source.
func stamp(source string) string {
	h := sha256.Sum256(append(slices.Clone(config), source...))
	return fmt.Sprintf("%x", h[:4])
}

// current says whether the kernel at link was built with today's configuration.
func current(link string) bool {
	source, err := os.ReadFile(filepath.Join(link, "source"))
	if err != nil {
		return false
	}
	target, err := os.Readlink(link)
	return err == nil && strings.HasSuffix(target, "-"+stamp(string(source)))
}

// sourcePackage is the name of Debian's package with the source.
var sourcePackage = regexp.MustCompile(`^linux-source-` + regexp.QuoteMeta(series) + `$`)

func build(cache, kernels, link string, logf func(string, ...any)) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the harness knows amd64 only, this machine is %s", runtime.GOARCH)
	}
	err := kernel.NeedTools([2]string{"apt-get", "apt"}, [2]string{"dpkg-deb", "dpkg"},
		[2]string{"depmod", "kmod"},
		[2]string{"tar", "tar"}, [2]string{"xz", "xz-utils"}, [2]string{"make", "make"},
		[2]string{"gcc", "gcc"}, [2]string{"ld", "binutils"},
		[2]string{"flex", "flex"}, [2]string{"bison", "bison"}, [2]string{"bc", "bc"})
	if err != nil {
		return err
	}
	debs, err := kernel.Download(cache, Name, series, "linux-source-",
		func(names []string) []string {
			return slices.DeleteFunc(names,
				func(n string) bool { return !sourcePackage.MatchString(n) })
		}, logf)
	if err != nil {
		return err
	}
	if len(debs) != 1 {
		kernel.RemoveAll(debs)
		return fmt.Errorf("%d packages were downloaded, one is wanted: %q", len(debs), debs)
	}
	defer kernel.RemoveAll(debs)
	tmp, err := os.MkdirTemp(kernels, "tmp-uml-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	logf("unpacking %s", filepath.Base(debs[0]))
	tree, err := unpack(tmp, debs[0])
	if err != nil {
		return err
	}
	out := filepath.Join(tmp, "out")
	release, err := compile(tmp, tree, out, filepath.Join(cache, "uml-build.log"), logf)
	if err != nil {
		return err
	}
	source := filepath.Base(debs[0])
	if err := os.WriteFile(filepath.Join(out, "source"), []byte(source), 0o644); err != nil {
		return err
	}
	name := release + "-" + stamp(source)
	final := filepath.Join(kernels, name)
	// The same kernel is there already: a guest may be using it.
	if _, err := kernel.Open(final); err != nil {
		if err := errors.Join(os.RemoveAll(final), os.Rename(out, final)); err != nil {
			return err
		}
	}
	logf("user-mode Linux %s is in %s", release, final)
	return kernel.ReplaceLink(name, link)
}

// unpack returns the directory of the source that the package has as an archive.
func unpack(tmp, deb string) (string, error) {
	raw := filepath.Join(tmp, "deb")
	if _, _, err := kernel.Run(tmp, "dpkg-deb", "-x", deb, raw); err != nil {
		return "", err
	}
	archives, err := filepath.Glob(filepath.Join(raw, "usr/src/linux-source-*.tar.xz"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("%s: %d archives in it, one is wanted (%w)", filepath.Base(deb),
			len(archives), err)
	}
	tree := filepath.Join(tmp, "source")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	_, _, err = kernel.Run(tmp, "tar", "-xf", archives[0], "-C", tree, "--strip-components=1")
	return tree, errors.Join(err, os.RemoveAll(raw))
}

// compile builds the kernel and its modules into out and returns its release.
// What the compiler says goes to log.
func compile(tmp, tree, out, log string, logf func(string, ...any)) (string, error) {
	objects := filepath.Join(tmp, "objects")
	if err := errors.Join(os.Mkdir(objects, 0o755), os.Mkdir(out, 0o755)); err != nil {
		return "", err
	}
	all := filepath.Join(tmp, "config")
	if err := os.WriteFile(all, config, 0o644); err != nil {
		return "", err
	}
	report, err := os.Create(log)
	if err != nil {
		return "", err
	}
	defer func() { _ = report.Close() }()
	run := func(stdout io.Writer, args ...string) error {
		// The build should not disturb other work on the machine.
		cmd := exec.Command("nice", append([]string{"make", "-C", tree, "ARCH=um", "O=" + objects,
			"-j" + strconv.Itoa(runtime.NumCPU())}, args...)...)
		cmd.Env = append(withoutMake(os.Environ()), "LC_ALL=C", "KCONFIG_ALLCONFIG="+all,
			"PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		cmd.Stdout, cmd.Stderr = stdout, report
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("make %s: %w; see %s", strings.Join(args, " "), err, log)
		}
		return nil
	}
	if err := run(report, "allnoconfig"); err != nil {
		return "", err
	}
	got, err := os.ReadFile(filepath.Join(objects, ".config"))
	if err != nil {
		return "", err
	}
	if missed := unmet(config, got); len(missed) > 0 {
		return "", fmt.Errorf("this source does not take the configuration: %s",
			strings.Join(missed, ", "))
	}
	logf("compiling; that takes some minutes (%s)", log)
	if err := run(report, "linux", "modules"); err != nil {
		return "", err
	}
	if err := run(report, "modules_install", "INSTALL_MOD_PATH="+out,
		"INSTALL_MOD_STRIP=1"); err != nil {
		return "", err
	}
	var release bytes.Buffer
	if err := run(&release, "-s", "--no-print-directory", "kernelrelease"); err != nil {
		return "", err
	}
	name := strings.TrimSpace(release.String())
	modules := filepath.Join(out, "lib/modules", name)
	// This is a link to the source, which is removed later.
	if err := os.Remove(filepath.Join(modules, "build")); err != nil &&
		!errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	_, _, err = kernel.Run(tmp, "strip", "-o", filepath.Join(out, "linux"),
		filepath.Join(objects, "linux"))
	return name, err
}

// withoutMake leaves out the variables by which a calling make passes options to this one.
func withoutMake(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES",
			"KERNEL", "ARCH", "GNUMAKEFLAGS"}, name)
	})
}

// unmet lists the lines of a wanted configuration that another one does not have.
func unmet(want, got []byte) []string {
	have := map[string]bool{}
	for sc := bufio.NewScanner(bytes.NewReader(got)); sc.Scan(); {
		have[sc.Text()] = true
	}
	var missed []string
	for sc := bufio.NewScanner(bytes.NewReader(want)); sc.Scan(); {
		line := sc.Text()
		name, value, ok := strings.Cut(line, "=")
		switch {
		case !ok || strings.HasPrefix(line, "#"):
		case value == "n":
			if have[name+"=y"] || have[name+"=m"] {
				missed = append(missed, line)
			}
		case !have[line]:
			missed = append(missed, line)
		}
	}
	return missed
}
