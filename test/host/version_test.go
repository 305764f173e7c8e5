package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Versions of a history with tags, in the order of its commits, are in that order for dpkg and
// rpm too.
func TestVersions(t *testing.T) {
	needHosts(t)
	long(t)
	repository := t.TempDir()
	mustShell(t, `mkdir "$1/scripts"; cp ../../scripts/version "$1/scripts"
git init -q "$1"; cd "$1"
git config user.email away@example.org; git config user.name 'Throw Away'; git add .`, repository)
	version := func(args ...string) string {
		return strings.TrimSpace(mustShell(t, `cd "$1"; shift; VERSION= scripts/version "$@"`,
			append([]string{repository}, args...)...))
	}
	var programs, debs []string
	note := func() {
		programs, debs = append(programs, version()), append(debs, version("--package"))
	}
	commit := func(n int) {
		for range n {
			mustShell(t, `cd "$1"; git commit -q --allow-empty -m more`, repository)
		}
		note()
	}
	tag := func(name string) {
		mustShell(t, `cd "$1"; git commit -q --allow-empty -m "$2"; git tag "$2"`, repository, name)
		note()
	}
	commit(1)
	commit(9)
	commit(1)
	tag("v0.9.9")
	commit(2)
	commit(9)
	mustShell(t, `cd "$1"; echo '#' >>scripts/version`, repository)
	note()
	mustShell(t, `cd "$1"; git commit -qam more`, repository)
	tag("v1.0.0-rc.1")
	commit(2)
	commit(8)
	tag("v1.0.0-rc.2")
	tag("v1.0.0-rc.10")
	tag("v1.0.0")
	commit(1)
	tag("v1.0.1")
	tag("v1.10.0")

	for i, want := range map[int]string{3: "0.9.9", 7: "1.0.0-rc.1", 12: "1.0.0", 15: "1.10.0"} {
		if programs[i] != want {
			t.Errorf("the program's version %d is %s, want %s: %q", i, programs[i], want, programs)
		}
	}
	for i := 1; i < len(debs); i++ {
		a, b := debs[i-1], debs[i]
		if strings.ContainsAny(b, "-_ ") {
			t.Errorf("%s: not a package's version", b)
		}
		if out, err := shell(t, `dpkg --compare-versions "$1" lt "$2"`, a, b); err != nil {
			t.Errorf("dpkg: %s is not before %s %s", a, b, out)
		}
		out := mustShell(t, `rpm --eval "%{lua: print(rpm.vercmp('$1', '$2'))}"`, a, b)
		if strings.TrimSpace(out) != "-1" {
			t.Errorf("rpm: %s is not before %s: %s", a, b, out)
		}
	}
	t.Log(debs)
	for _, bad := range []string{"1.2", "v1.2.3/../x", "1.2.3 x", "1.2.3-$(id)", "-1.2.3"} {
		out, err := shell(t, `VERSION=$1 ../../scripts/version`, bad)
		if err == nil || strings.Count(out, "\n") != 1 {
			t.Errorf("%q is a version: %s", bad, out)
		}
	}
}

// make release builds what a release page carries, from a commit with a tag and a section in
// the change log, and from nothing else.
func TestRelease(t *testing.T) {
	r := needRelease(t)
	checkout := copyOf(t)
	mustShell(t, `cd "$1"; git init -q .
git config user.email away@example.org; git config user.name 'Throw Away'
git add .; git commit -qm first`, checkout)
	refused := func(why string) {
		t.Helper()
		out, err := shell(t, `cd "$1"; KEY=$2 scripts/release dist`, checkout, r.key)
		if err == nil || !strings.Contains(out, why) || strings.Count(out, "\n") != 1 {
			t.Errorf("want one line with %q: %v: %s", why, err, out)
		}
	}
	refused("wants a commit with a tag")
	mustShell(t, `cd "$1"; git tag v9.8.7`, checkout)
	refused("nothing under '## [9.8.7]'")
	mustShell(t, `cd "$1"; sed -i 's/^## \[Unreleased\]/&\n\n## [9.8.7] - 2026-12-01/' CHANGELOG.md
git commit -qam 'Release 9.8.7'; git tag -f v9.8.7; touch more`, checkout)
	refused("not committed")
	mustShell(t, `cd "$1"; rm more; mkdir dist; touch dist/old`, checkout)
	refused("not empty")
	mustShell(t, `cd "$1"; rm -r dist; make release KEY="$2"`, checkout, r.key)
	found, err := filepath.Glob(filepath.Join(checkout, "dist/*"))
	if err != nil || len(found) != 11 {
		t.Errorf("a release page: %q, %v", found, err)
	}
	mustShell(t, `cd "$1/dist"; sha256sum -c SHA256SUMS
test $(wc -l <SHA256SUMS) = 9
GNUPGHOME=$2 gpg --batch --verify SHA256SUMS.asc SHA256SUMS
grep -q . NOTES.md; ! grep '^## ' NOTES.md
tar -xzf ublk-remap-9.8.7-linux-amd64.tar.gz; cd ublk-remap-9.8.7-linux-amd64
./ublk-remap version | grep '^ublk-remap 9\.8\.7 '
test -f LICENSE -a -f THIRD-PARTY -a -f man/ublk-remap.8.gz -a -f systemd/ublk-remap@.service`,
		checkout, r.home)
}

// The arm64 program runs. The test emulates the processor, on this machine's kernel.
func TestARM64(t *testing.T) {
	r := needRelease(t)
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mustShell(t, `dpkg-deb -x "$1" "$2"`, r.file(t, "arm64.deb"), dir)
	program := []string{qemu, filepath.Join(dir, "usr/sbin/ublk-remap")}
	run := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(program[0], append(program[1:2:2], args...)...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%q: exit code %d, want %d: %v: %s", args, code, want, err, out)
		}
		return string(out)
	}
	if out := run(0, "version"); !strings.HasPrefix(out, "ublk-remap 0.0.1 ") ||
		!strings.Contains(out, "linux/arm64") {
		t.Error(out)
	}
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	run(0, "create", "--name", "arm", disk)
	run(0, "metadata", "check", disk)
	// The program of this machine reads what the arm64 program wrote, and the other way round.
	native := filepath.Join(dir, "native")
	mustShell(t, `dpkg-deb -x "$1" "$2"; "$2/usr/sbin/ublk-remap" metadata check "$3"
"$2/usr/sbin/ublk-remap" metadata dump "$3" >"$3.native"
truncate -s 64M "$3.2"; "$2/usr/sbin/ublk-remap" create --name native "$3.2"`,
		r.file(t, "amd64.deb"), native, disk)
	run(0, "metadata", "check", disk+".2")
	text, err := os.ReadFile(disk + ".native")
	if err != nil || run(0, "metadata", "dump", disk) != string(text) {
		t.Errorf("the dumps differ (%v)", err)
	}
	if out := run(0, "--help"); !strings.Contains(out, "create") {
		t.Error(out)
	}
}
