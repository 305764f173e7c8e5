package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Environment variables that point at other Debian mirrors.
const (
	MirrorEnv         = "UBLK_REMAP_MIRROR"
	SecurityMirrorEnv = "UBLK_REMAP_SECURITY_MIRROR"
)

// ErrNoKernel is returned when none of the suites has a cloud kernel of the
// series that was asked for. Backports move on; what they had on some day is
// kept by snapshot.debian.org, which MirrorEnv can point at.
var ErrNoKernel = errors.New("Debian's suites have no cloud kernel of this series now; " +
	"for an earlier day set $" + MirrorEnv +
	" to http://snapshot.debian.org/archive/debian/YYYYMMDDT000000Z")

// source is one line of sources.list.
type source struct {
	security bool
	suite    string
}

// sources are the suites that are asked for a series, all at once: the newest
// package wins, wherever it is. 6.12 is Debian 13's kernel and Debian 12's
// newer one (in its security archive); anything newer comes by Debian 13's backports.
func sources(series string) []source {
	if series == "6.12" {
		return []source{{true, "bookworm-security"}, {false, "trixie"}}
	}
	return []source{{false, "trixie-backports"}}
}

func sourcesList(series string) string {
	mirror := envOr(MirrorEnv, "http://deb.debian.org/debian")
	security := envOr(SecurityMirrorEnv, "http://deb.debian.org/debian-security")
	var b strings.Builder
	for _, s := range sources(series) {
		uri := mirror
		if s.security {
			uri = security
		}
		fmt.Fprintf(&b, "deb [arch=amd64 "+
			"signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", uri, s.suite)
	}
	return b.String()
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// apt runs apt's programs with everything below its own directory.
type apt struct {
	dir  string
	opts []string
}

func newApt(dir, list string) (*apt, error) {
	for _, d := range []string{"etc/preferences.d", "lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, "etc/sources.list")
	if err := os.WriteFile(file, []byte(list), 0o644); err != nil {
		return nil, err
	}
	opts := []string{
		"-o", "Dir::Etc=" + filepath.Join(dir, "etc"),
		"-o", "Dir::Etc::SourceList=" + file,
		"-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::State::status=/dev/null", // nothing is installed here
		"-o", "Dir::Cache=" + dir,
		"-o", "APT::Architecture=amd64",
		"-o", "APT::Architectures::=amd64",
		"-o", "APT::Sandbox::User=root", // the cache may lie where _apt cannot go
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=3",
		"-qq",
	}
	if os.Getenv(MirrorEnv) != "" {
		// A snapshot's release file is signed and, by its date, expired.
		opts = append(opts, "-o", "Acquire::Check-Valid-Until=false")
	}
	return &apt{dir: dir, opts: opts}, nil
}

// run runs one of apt's programs and returns its output, warnings included: apt only warns of a
// suite that cannot be reached.
func (a *apt) run(name string, args ...string) (stdout, stderr []byte, err error) {
	return Run(filepath.Join(a.dir, "archives"), name, append(append([]string{}, a.opts...),
		args...)...)
}

// Run runs a program in dir and returns its output; an error carries what it
// printed on standard error.
func Run(dir, name string, args ...string) (stdout, stderr []byte, err error) {
	path, err := lookTool(name)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	// dpkg insists on sbin
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), bytes.TrimSpace(errs.Bytes()), nil
}

// fetch downloads the newest kernel of the series and points link at it.
// The caller holds the lock.
func fetch(cache, series, link string, logf func(string, ...any)) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the harness knows amd64 kernels only, this machine is %s",
			runtime.GOARCH)
	}
	if err := NeedTools([2]string{"apt-get", "apt"}, [2]string{"dpkg-deb", "dpkg"},
		[2]string{"depmod", "kmod"}); err != nil {
		return err
	}
	logf("looking for the newest %s cloud kernel of Debian", series)
	debs, err := Download(cache, series, series, "linux-",
		func(names []string) []string { return choose(names, series) }, logf)
	if err != nil {
		return err
	}
	release, err := unpack(filepath.Dir(link), debs)
	if err != nil {
		return err
	}
	RemoveAll(debs)
	logf("kernel %s is in %s", release, filepath.Dir(link))
	return ReplaceLink(release, link)
}

// Download downloads packages of the Debian suites that carry a series and
// returns the paths of their files, which are the caller's to remove
// ([RemoveAll]). choose picks them among all names that begin with prefix; none
// is ErrNoKernel. apt's lists and archives are in cache/apt/dir. The caller holds a
// lock for dir.
func Download(cache, dir, series, prefix string, choose func(names []string) []string,
	logf func(string, ...any)) ([]string, error) {
	a, err := newApt(filepath.Join(cache, "apt", dir), sourcesList(series))
	if err != nil {
		return nil, err
	}
	_, warnings, err := a.run("apt-get", "update")
	if err != nil {
		return nil, err
	}
	names, _, err := a.run("apt-cache", "pkgnames", prefix)
	if err != nil {
		return nil, err
	}
	packages := choose(strings.Fields(string(names)))
	if len(packages) == 0 {
		if len(warnings) > 0 {
			return nil, fmt.Errorf("%w (apt-get update: %s)", ErrNoKernel, warnings)
		}
		return nil, ErrNoKernel
	}
	logf("downloading %s", strings.Join(packages, ", "))
	if _, _, err := a.run("apt-get", append([]string{"download"}, packages...)...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(a.dir, "archives/*.deb"))
}

// Packages returns the files of the packages that make up the newest cloud kernel of a series
// for a release of Debian, such as deb12, for guests that install it. They are in
// cache/debs, and downloaded if they are not there.
func Packages(cache, series, release string, logf func(string, ...any)) ([]string, error) {
	dir := filepath.Join(cache, "debs", series+"-"+release)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	unlock, err := Lock(filepath.Dir(dir), "lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	files := filepath.Join(dir, "*.deb")
	if have, err := filepath.Glob(files); err != nil || len(have) > 0 {
		return have, err
	}
	debs, err := Download(cache, series+"-"+release, series, "linux-",
		func(names []string) []string {
			all := choose(slices.DeleteFunc(slices.Clone(names), func(n string) bool {
				return !strings.Contains(n, "+"+release)
			}), series)
			// A kernel in several packages wants the linux-base of its suite.
			if len(all) > 1 && slices.Contains(names, "linux-base") {
				all = append(all, "linux-base")
			}
			return all
		}, logf)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "tmp-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, deb := range debs {
		if err := os.Rename(deb, filepath.Join(tmp, filepath.Base(deb))); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(os.Chmod(tmp, 0o755), os.Rename(tmp, dir)); err != nil {
		return nil, err
	}
	return filepath.Glob(files)
}

// RemoveAll removes packages that have been unpacked. They would only be outdated later.
func RemoveAll(debs []string) {
	for _, deb := range debs {
		_ = os.Remove(deb)
	}
}

// NeedTools says which of these programs, each with its package, the host lacks.
func NeedTools(tools ...[2]string) error {
	for _, tool := range tools {
		if _, err := lookTool(tool[0]); err != nil {
			return fmt.Errorf("%s is needed (package %s; scripts/deps installs it)", tool[0],
				tool[1])
		}
	}
	return nil
}

// choose picks, among package names, those that make up the newest cloud
// kernel of the series. Debian has put the image and the modules into one
// package (linux-image-*) and, later, into several (linux-binary-*,
// linux-modules-*, linux-base-*); whatever of these exists is taken.
func choose(names []string, series string) []string {
	pattern := regexp.MustCompile(`^linux-(image|binary|modules|base)-(` +
		regexp.QuoteMeta(series) + `\.[0-9]+[^-]*-cloud-amd64)$`)
	byRelease := map[string][]string{}
	var newest string
	for _, n := range names {
		m := pattern.FindStringSubmatch(n)
		if m == nil {
			continue
		}
		byRelease[m[2]] = append(byRelease[m[2]], n)
		if newest == "" || patchLevel(m[2]) > patchLevel(newest) {
			newest = m[2]
		}
	}
	return byRelease[newest]
}

// patchLevel is the third number of a release such as 6.12.117+deb12-cloud-amd64.
func patchLevel(release string) int {
	var major, minor, patch int
	_, _ = fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch)
	return patch
}

// unpack puts the packages' contents into kernels/RELEASE and returns the release.
func unpack(kernels string, debs []string) (string, error) {
	tmp, err := os.MkdirTemp(kernels, "tmp-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	raw, out := filepath.Join(tmp, "raw"), filepath.Join(tmp, "out")
	for _, deb := range debs {
		if _, _, err := Run(tmp, "dpkg-deb", "-x", deb, raw); err != nil {
			return "", err
		}
	}
	release, err := arrange(raw, out)
	if err != nil {
		return "", err
	}
	if _, _, err := Run(tmp, "depmod", "-b", out, release); err != nil {
		return "", err
	}
	final := filepath.Join(kernels, release)
	// A kernel that is there already may be in use by a guest that is
	// just starting: it has the same contents, so it stays.
	if _, err := Open(final); err == nil {
		return release, nil
	}
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	if err := os.Chmod(out, 0o755); err != nil {
		return "", err
	}
	return release, os.Rename(out, final)
}

// arrange moves the image and the modules from where the packages have them
// (/boot or /usr/lib/modules, /lib or /usr/lib) to one layout.
func arrange(raw, out string) (string, error) {
	var image, modules string
	for _, pattern := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz",
		"lib/modules/*/vmlinuz"} {
		if m, _ := filepath.Glob(filepath.Join(raw, pattern)); len(m) == 1 {
			image = m[0]
		}
	}
	for _, pattern := range []string{"lib/modules/*/kernel", "usr/lib/modules/*/kernel"} {
		if m, _ := filepath.Glob(filepath.Join(raw, pattern)); len(m) == 1 {
			modules = filepath.Dir(m[0])
		}
	}
	if image == "" || modules == "" {
		return "", fmt.Errorf("%w: image %q, modules %q", ErrNotAKernel, image, modules)
	}
	release := filepath.Base(modules)
	if err := os.MkdirAll(filepath.Join(out, "lib/modules"), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(image, filepath.Join(out, "vmlinuz")); err != nil {
		return "", err
	}
	return release, os.Rename(modules, filepath.Join(out, "lib/modules", release))
}

// ReplaceLink makes link point to target in one step.
func ReplaceLink(target, link string) error {
	tmp := link + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}

// lookTool finds a program in PATH or, for users without the sbin
// directories in theirs, there.
func lookTool(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err == nil {
		return p, nil
	}
	for _, d := range []string{"/usr/local/sbin/", "/usr/sbin/", "/sbin/"} {
		if st, serr := os.Stat(d + name); serr == nil && st.Mode()&0o111 != 0 {
			return d + name, nil
		}
	}
	return "", err
}
