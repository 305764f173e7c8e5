package host

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// release is all that scripts/package can build, of version 0.0.1, signed with a key that was
// made for it.
type release struct {
	dir    string // what was built
	home   string // gpg's, with the key
	key    string // a file with the private key
	public string // a file with the public key
	id     string // of the key, as debsig-verify names it
	err    error
}

const (
	releaseEpoch   = "SOURCE_DATE_EPOCH=1790000000"
	releaseFormats = "FORMATS=deb rpm tar bom"
)

// makeKey makes a key and exports it: $1 is the directory, $2 gpg's home in it.
const makeKey = `set -e
export GNUPGHOME=$2
mkdir -m 700 -p "$2"
gpg --batch --quiet --passphrase '' --quick-gen-key 'Throw Away <away@example.org>' \
	rsa2048 sign never
gpg --batch --export-secret-keys >"$1/key"
gpg --batch --armor --export >"$1/public"
gpg --batch --with-colons --list-keys | awk -F: '$1 == "fpr" { print substr($10, 25); exit }'`

// built builds them, once.
var built = sync.OnceValue(func() (r release) {
	dir, err := os.MkdirTemp("", "ublk-remap-release-")
	if err != nil {
		return release{err: err}
	}
	r = release{dir: filepath.Join(dir, "dist"), home: filepath.Join(dir, "gpg"),
		key: filepath.Join(dir, "key"), public: filepath.Join(dir, "public")}
	packages["release"] = r.key
	out, err := exec.Command("sh", "-c", makeKey, "key", dir, r.home).CombinedOutput()
	if err != nil {
		r.err = fmt.Errorf("make a key: %w: %s", err, out)
		return r
	}
	lines := strings.Fields(string(out))
	r.id = lines[len(lines)-1]
	r.err = script("../..", "scripts/package", r.dir, "VERSION=v0.0.1", releaseEpoch,
		releaseFormats, "KEY="+r.key)
	return r
})

// script runs a script of a checkout with one argument.
func script(checkout, name, arg string, env ...string) error {
	cmd := exec.Command(filepath.Join(checkout, name), arg)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func needRelease(t *testing.T) release {
	t.Helper()
	needHosts(t)
	long(t)
	r := built()
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r
}

// file returns the only file that was built whose name ends so.
func (r release) file(t *testing.T, suffix string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(r.dir, "*"+suffix))
	if err != nil || len(found) != 1 {
		t.Fatalf("*%s: %q, %v", suffix, found, err)
	}
	return found[0]
}

// shell runs a script on this machine and returns what it prints.
func shell(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "test"},
		args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustShell(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := shell(t, script, args...)
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, script, out)
	}
	return out
}

// copyOf copies what of the checkout belongs in git to another place.
func copyOf(t *testing.T) string {
	t.Helper()
	other := filepath.Join(t.TempDir(), "another-place")
	mustShell(t, `mkdir "$1"; cd ../..
git -c safe.directory='*' ls-files -z -co --exclude-standard |
	xargs -0 -r tar -cf - --ignore-failed-read | tar -xmf - -C "$1"`, other)
	return other
}

// The same commit gives the same packages, signed ones too, in another checkout at another
// time.
func TestReproducible(t *testing.T) {
	r := needRelease(t)
	b := t.TempDir()
	if err := script(copyOf(t), "scripts/package", b, "VERSION=0.0.1", releaseEpoch,
		releaseFormats, "KEY="+r.key, "TMPDIR="+t.TempDir()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	if err != nil || len(files) != 10 {
		t.Fatalf("two architectures, deb, rpm, tar, bom; SHA256SUMS, its signature: %q, %v", files,
			err)
	}
	for _, f := range files {
		one, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(b, filepath.Base(f)))
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: not the same (%v)", filepath.Base(f), err)
		}
	}
	mustShell(t, `cd "$1"; sha256sum -c SHA256SUMS; test $(wc -l <SHA256SUMS) = 8`, b)
}

// Checksums, deb and rpm carry signatures that the tools of each verify, and that no longer verify
// once a byte is changed.
func TestSigned(t *testing.T) {
	r := needRelease(t)
	t.Run("checksums", func(t *testing.T) {
		const verify = `cd "$1"; GNUPGHOME=$2 gpg --batch --verify SHA256SUMS.asc "$3"`
		mustShell(t, verify, r.dir, r.home, "SHA256SUMS")
		if out, err := shell(t, `sed '1s/^./x/' "$1/SHA256SUMS" >"$3/SHA256SUMS"
`+verify, r.dir, r.home, t.TempDir()); err == nil {
			t.Errorf("a changed list is good: %s", out)
		}
	})
	t.Run("rpm", func(t *testing.T) {
		const verify = `
rpm --dbpath "$1/db" --import "$2"
dd if=/dev/zero of="$1/copy" bs=1 count=64 seek=$(($(stat -c %s "$1/copy") / 2)) conv=notrunc \
	status=none
rpm --dbpath "$1/db" -Kv "$3"`
		dir, path := t.TempDir(), r.file(t, "x86_64.rpm")
		mustShell(t, `cp "$1" "$2/copy"`, path, dir)
		out := mustShell(t, verify, dir, r.public, path)
		if strings.Count(out, "Signature, key ID "+strings.ToLower(r.id[8:])+": OK") != 2 {
			t.Errorf("not signed with the key, twice: %s", out)
		}
		if out, err := shell(t, verify, dir, r.public, dir+"/copy"); err == nil {
			t.Errorf("a changed package is good: %s", out)
		}
	})
	t.Run("deb", func(t *testing.T) {
		const policy = `
mkdir -p "$1/policies/$2" "$1/keyrings/$2"
gpg --dearmor <"$3" >"$1/keyrings/$2/ublk-remap.gpg"
cat >"$1/policies/$2/ublk-remap.pol" <<END
<?xml version="1.0"?>
<!DOCTYPE Policy SYSTEM "https://www.debian.org/debsig/1.0/policy.dtd">
<Policy xmlns="https://www.debian.org/debsig/1.0/">
  <Origin Name="ublk-remap" id="$2" Description="ublk-remap"/>
  <Selection><Required Type="origin" File="ublk-remap.gpg" id="$2"/></Selection>
  <Verification>
    <Required Type="origin" File="ublk-remap.gpg" id="$2"/>
  </Verification>
</Policy>
END`
		const verify = `
debsig-verify --policies-dir "$1/policies" --keyrings-dir "$1/keyrings" "$2"`
		dir, path := t.TempDir(), r.file(t, "amd64.deb")
		mustShell(t, policy, dir, r.id, r.public)
		mustShell(t, verify, dir, path)
		mustShell(t, `cp "$1" "$2/copy"
dd if=/dev/zero of="$2/copy" bs=1 count=64 seek=$(($(stat -c %s "$2/copy") / 2)) conv=notrunc`,
			path, dir)
		if out, err := shell(t, verify, dir, dir+"/copy"); err == nil {
			t.Errorf("a changed package is good: %s", out)
		}
		// dpkg installs it anyway: it passes over members it does not know.
		mustShell(t, `dpkg-deb -I "$1"; dpkg-deb -c "$1"`, path)
	})
}

// A missing key file, or a file that is no key, stops the build with one line.
func TestNoKey(t *testing.T) {
	needHosts(t)
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, []byte("no key\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{none, "nobody@example.org"} {
		out, err := shell(t, `GNUPGHOME=$2 ../../scripts/sign "$1" </dev/null`, key, t.TempDir())
		if err == nil || out == "" {
			t.Errorf("%s: %v: %s", key, err, out)
		}
	}
}

// lintian and rpmlint find nothing that packaging/lintian-overrides and packaging/rpmlint.toml
// do not explain.
func TestLint(t *testing.T) {
	r := needRelease(t)
	for _, arch := range []string{"amd64.deb", "arm64.deb"} {
		if out, err := shell(t, `lintian --fail-on error,warning,info --allow-root "$1"`,
			r.file(t, arch)); err != nil {
			t.Errorf("%s: %v\n%s", arch, err, out)
		}
	}
	// rpmlint unpacks with cpio, and the names in nfpm's archives begin with a slash.
	const rpmlint = `
printf '#!/bin/sh\nexec %s --no-absolute-filenames "$@"\n' "$(command -v cpio)" >"$2/cpio"
chmod 755 "$2/cpio"
export HOME=$2 PATH=$2:$PATH
echo "%_dbpath $2/db" >"$2/.rpmmacros"
rpm --import "$3"
rpmlint --strict -c ../../packaging/rpmlint.toml "$1"`
	for _, arch := range []string{"x86_64.rpm", "aarch64.rpm"} {
		out, err := shell(t, rpmlint, r.file(t, arch), t.TempDir(), r.public)
		if err != nil || !strings.Contains(out, " 0 errors, 0 warnings") ||
			!strings.Contains(out, "1 packages") {
			t.Errorf("%s: %v\n%s", arch, err, out)
		}
	}
}

// The list of what is linked in is what Go says of the binary, and each licence is there.
func TestBillOfMaterials(t *testing.T) {
	r := needRelease(t)
	for arch, names := range map[string][2]string{
		"amd64": {"amd64.deb", "x86_64.rpm"}, "arm64": {"arm64.deb", "aarch64.rpm"}} {
		t.Run(arch, func(t *testing.T) {
			dir := t.TempDir()
			// rpm2cpio extracts everything and then fails, because the size in nfpm's header
			// differs from the one that it counts.
			mustShell(t, `dpkg-deb -x "$2" "$1/deb"; mkdir "$1/rpm" "$1/tar"
rpm2cpio "$3" >"$1/cpio" || test -s "$1/cpio"
(cd "$1/rpm" && cpio -id --quiet --no-absolute-filenames <../cpio)
tar -xzf "$4" -C "$1/tar" --strip-components=1
cmp "$1/deb/usr/sbin/ublk-remap" "$1/rpm/usr/sbin/ublk-remap"
cmp "$1/deb/usr/sbin/ublk-remap" "$1/tar/ublk-remap"
second=usr/libexec/ublk-remap/ublk-remap-monitor
cmp "$1/deb/$second" "$1/rpm/$second"
cmp "$1/deb/$second" "$1/tar/ublk-remap-monitor"
for f in deb/usr/share/doc/ublk-remap rpm/usr/share/doc/ublk-remap tar; do
	cmp "$5" "$1/$f/ublk-remap.cdx.json"
done
cmp "$1/rpm/usr/share/licenses/ublk-remap/THIRD-PARTY" "$1/tar/THIRD-PARTY"`, dir,
				r.file(t, names[0]), r.file(t, names[1]), r.file(t, arch+".tar.gz"),
				r.file(t, arch+".cdx.json"))
			parts := components(t, r.file(t, arch+".cdx.json"))
			want := linked(t, dir+"/tar/ublk-remap", dir+"/tar/ublk-remap-monitor")
			if !slices.Equal(parts, want) {
				t.Errorf("the list has\n%q\nthe binary\n%q", parts, want)
			}
			for _, path := range []string{"deb/usr/share/doc/ublk-remap/copyright",
				"tar/THIRD-PARTY"} {
				text, err := os.ReadFile(filepath.Join(dir, path))
				if err != nil {
					t.Fatal(err)
				}
				for _, part := range want {
					if !strings.Contains(string(text), part) {
						t.Errorf("%s has nothing of %s", path, part)
					}
				}
			}
		})
	}
}

// linked returns the modules that Go's linker has noted in binaries.
func linked(t *testing.T, paths ...string) []string {
	t.Helper()
	var found []string
	for _, path := range paths {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, "std@"+strings.TrimPrefix(info.GoVersion, "go"))
		for _, m := range info.Deps {
			found = append(found, m.Path+"@"+m.Version)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// components returns what a CycloneDX document names. Each must have a licence.
func components(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		BOMFormat  string
		Components []struct {
			Name, Version, Purl string
			Licenses            []struct{ License struct{ ID string } }
		}
	}
	if err := json.Unmarshal(text, &document); err != nil || document.BOMFormat != "CycloneDX" {
		t.Fatalf("%v: %s", err, text)
	}
	var found []string
	for _, c := range document.Components {
		found = append(found, c.Name+"@"+c.Version)
		if len(c.Licenses) == 0 || c.Licenses[0].License.ID == "" ||
			c.Purl != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("%+v", c)
		}
	}
	slices.Sort(found)
	return found
}
