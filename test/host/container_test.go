package host

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// containerLines returns the lines of docs/CONTAINERS.md that are commands, without their blanks:
// those for podman, or those for docker. The disk that they name as an example is replaced by the
// host's.
func containerLines(t *testing.T, engine string) []string {
	t.Helper()
	const disk = "/dev/ubdc"
	text, err := os.ReadFile("../../docs/CONTAINERS.md")
	if err != nil {
		t.Fatal(err)
	}
	page, docker, found := strings.Cut(string(text), "\n## With docker\n")
	if !found {
		t.Fatal("the document has no section for docker")
	}
	if engine == "docker" {
		page = docker
	}
	var lines []string
	for line := range strings.Lines(page) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, strings.ReplaceAll(strings.TrimSpace(command), "/dev/sdX", disk))
		}
	}
	return lines
}

// containerHost has podman, the image's files as in a checkout where make build was run,
// and the program on the host only as container and disk need it.
func containerHost(t *testing.T) system.Options {
	needHosts(t)
	o := withPackage(t)
	o.Packages = []string{"podman", "crun", "jq"}
	o.Payload["Dockerfile"] = "../../packaging/container/Dockerfile"
	o.MemoryMiB = 1024
	return o
}

const checkout = `
mkdir -p /root/checkout/packaging/container /root/checkout/bin
cp /payload/Dockerfile /root/checkout/packaging/container
dpkg-deb -x /payload/ublk-remap.deb /root/package
cp /root/package/usr/sbin/ublk-remap /root/package/usr/libexec/ublk-remap/ublk-remap-monitor \
	/root/checkout/bin
/root/package/usr/sbin/ublk-remap create --name data /dev/ubdc`

// The lines of docs/CONTAINERS.md, one after the other, on a host that has no package: a server
// in a container serves a file system that is mounted on the host; it is killed by podman stop
// while it is in use, and recovered by podman start.
func TestContainer(t *testing.T) {
	long(t)
	lines := containerLines(t, "podman")
	if i := slices.Index(lines, "make build"); i < 0 || len(lines) < 10 {
		t.Fatalf("the document has other lines: %q", lines)
	} else {
		lines = slices.Delete(lines, i, i+1)
	}
	onEach(t, containerHost(t), func(t *testing.T, h *system.Host) {
		h.Boot()
		h.Run(checkout)
		containerServes(t, h, "podman", lines, append(withoutRights, "--security-opt seccomp="))
	})
}

// The same with docker, whose daemon needs no network for that.
func TestDocker(t *testing.T) {
	long(t)
	o := containerHost(t)
	o.Packages = []string{"docker.io", "jq", "golang-github-containers-common"}
	o.PackagesOf = map[string][]string{"trixie": {"docker-cli"}}
	lines := containerLines(t, "docker")
	// What the host needs is the same.
	var before strings.Builder
	for _, line := range containerLines(t, "podman") {
		switch program, _, _ := strings.Cut(line, " "); program {
		case "cp", "jq", "mkdir", "modprobe":
			before.WriteString(line + "\n")
		}
	}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		h.Boot()
		h.Run(checkout + "\ncd /root/checkout\n" + before.String() + `
mkdir -p /etc/docker
echo '{"bridge": "none", "iptables": false, "ip6tables": false}' \
	>/etc/docker/daemon.json
systemctl reset-failed docker || :
systemctl restart docker`)
		// docker's filter forbids io_uring since version 25.
		lacks := withoutRights
		if !strings.HasPrefix(h.Run("docker version -f '{{.Server.Version}}'"), "20.") {
			lacks = append(slices.Clone(lacks), "--security-opt seccomp=")
		}
		containerServes(t, h, "docker", lines, lacks)
	})
}

// containerServes runs the lines. lacks is what doctor says that a container lacks which was given
// nothing.
func containerServes(t *testing.T, h *system.Host, engine string, lines, lacks []string) {
	t.Helper()
	for _, line := range lines {
		out, code := h.Try("cd /root/checkout\n" + line)
		t.Logf("%s\n%s", line, out)
		switch {
		case strings.HasSuffix(line, "--network none ublk-remap"):
			missing(t, out, code, lacks)
		case code != 0:
			t.Fatalf("exit code %d", code)
		case strings.Contains(line, "run -d"):
			h.Eventually(30*time.Second, `
test -b /dev/ublkb0 && grep -q . /run/ublk-remap/data.json`)
			h.Run(`mkfs.ext4 -q /dev/ublkb0
mount /dev/ublkb0 /mnt
echo first >/mnt/first
sync`)
		case strings.HasSuffix(line, " list"):
			if !strings.Contains(out, "/dev/ublkb0") {
				t.Errorf("the server is not listed")
			}
		case strings.HasSuffix(line, " status data"):
			if !strings.Contains(out, "live") {
				t.Errorf("the server is not live")
			}
			h.Run(engine + " stop data; test -b /dev/ublkb0; findmnt /mnt")
		}
	}
	h.Eventually(30*time.Second, engine+` ps -q --filter name=data | grep . &&
timeout 10 dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct`)
	h.Run(`test $(cat /mnt/first) = first
echo second >/mnt/second
sync
umount /mnt
fsck.ext4 -fn /dev/ublkb0
` + engine + ` stop data
test ! -e /dev/ublkb0
/root/package/usr/sbin/ublk-remap metadata check /dev/ubdc`)
}

// withoutRights is what every container lacks that was given nothing.
var withoutRights = []string{"--cap-add SYS_ADMIN", "--cap-add SYS_RESOURCE", "-v /dev:/dev",
	"-v /run/ublk-remap:/run/ublk-remap", "--pid host"}

// missing looks at what doctor says in a container that was given nothing.
func missing(t *testing.T, out string, code int, lacks []string) {
	t.Helper()
	if code != 5 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range lacks {
		if !strings.Contains(out, "→ ") || !strings.Contains(out, want) {
			t.Errorf("doctor does not say %s", want)
		}
	}
}

// With the options of the document doctor misses nothing; without one of them it names that
// one, and a server says so, too.
func TestContainerRights(t *testing.T) {
	long(t)
	var all string
	for _, line := range containerLines(t, "podman") {
		if strings.Contains(line, "run -d") || strings.HasPrefix(line, "jq ") ||
			strings.HasPrefix(line, "mkdir ") || strings.Contains(line, "podman build") ||
			strings.HasPrefix(line, "cp ") {
			all += line + "\n"
		}
	}
	before, run, _ := strings.Cut(all, "podman run -d --name data ")
	options, _, _ := strings.Cut(run, " ublk-remap start ")
	without := func(parts ...string) string {
		o := options
		for _, p := range parts {
			if !strings.Contains(o, p) {
				t.Fatalf("%s is not in %s", p, o)
			}
			o = strings.Replace(o, p, "", 1)
		}
		return o
	}
	profile := "--security-opt seccomp=/etc/ublk-remap-seccomp.json"
	onEach(t, containerHost(t), func(t *testing.T, h *system.Host) {
		h.Boot()
		h.Run(checkout + "\ncd /root/checkout\n" + before)
		for _, c := range []struct {
			options string
			code    int
			says    string
		}{
			{options, 0, ""},
			{without("--cap-add SYS_ADMIN"), 5, "--cap-add SYS_ADMIN"},
			{without("--cap-add SYS_RESOURCE"), 0, "--cap-add SYS_RESOURCE"},
			{without(profile), 5, "--security-opt seccomp="},
			{without("--device-cgroup-rule 'c *:* rw'"), 5, "--device-cgroup-rule 'c *:* rw'"},
			{without("-v /dev:/dev"), 5, "-v /dev:/dev"},
			{without("-v /run/ublk-remap:/run/ublk-remap"), 0, "-v /run/ublk-remap"},
			{without("--pid host"), 0, "--pid host"},
			{without("--read-only"), 0, ""},
			{strings.Replace(options, "-v /dev:/dev",
				"--device /dev/ublk-control --device /dev/ubdc", 1), 5, "-v /dev:/dev"},
		} {
			out, code := h.Try("podman run --rm " + c.options + " ublk-remap doctor")
			if code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("%s: exit code %d, want %d and %q: %s", c.options, code, c.code, c.says,
					out)
			}
			if c.says == "" && strings.Contains(out, "in a container: ") {
				t.Errorf("%s: nothing is missing, but: %s", c.options, out)
			}
			if c.code == 0 {
				continue
			}
			out, code = h.Try("timeout 60 podman run --rm " + c.options +
				" ublk-remap start --foreground /dev/ubdc")
			// The log of a server in the foreground comes before that line.
			if code == 0 || code >= 124 || strings.Count("\n"+out, "\nublk-remap: ") != 1 {
				t.Errorf("%s: start: exit code %d: %s", c.options, code, out)
			}
			t.Logf("%d %s", code, out)
			h.Run("test ! -e /dev/ublkb0")
		}
	})
}
