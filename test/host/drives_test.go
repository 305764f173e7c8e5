package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDrives runs health with the real smartctl on drives that answer SMART: those that QEMU
// emulates, ATA and NVMe, and a SCSI disk of the kernel that has nothing to say.
func TestDrives(t *testing.T) {
	needHosts(t)
	long(t)
	dir := t.TempDir()
	mustShell(t, `cd ../..
CGO_ENABLED=0 go build -trimpath -o "$1" ./cmd/vmexec ./cmd/ublk-remap`, dir)
	script, err := os.ReadFile("testdata/drives.sh")
	if err != nil {
		t.Fatal(err)
	}
	job := filepath.Join(dir, "drives.sh")
	if err := os.WriteFile(job, script, 0o700); err != nil {
		t.Fatal(err)
	}
	modules := "ahci,nvme,sd_mod,sg,scsi_debug"
	cmd := exec.Command(filepath.Join(dir, "vmexec"), "-kernel", "6.12", "-timeout", "10m",
		"-disk", "96M:512:ata", "-disk", "96M:512:nvme", "-modules", modules,
		"-load", "configfs,loop,dm_mod,ublk_drv,ahci,nvme,sd_mod,sg",
		"-tools", "base,smartctl,setpriv", "-env", "TMPDIR=/tmp",
		"-env", "EXAMPLE="+example(t, "## import", "smartctl --json", "/dev/sdb", "/dev/sda",
			"import sdb", "import ata"),
		"-file", filepath.Join(dir, "ublk-remap")+":/usr/local/bin/ublk-remap", job)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, problems.String())
	}
	said := map[string]string{}
	for _, part := range strings.Split(string(out), "=== ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		// Long lines are wrapped for people.
		said[name] = strings.Join(strings.Fields(text), " ")
	}
	for name, want := range map[string][]string{
		"ata":        {"good: nothing speaks against", "/dev/sda QEMU HARDDISK, 31 °C", "rc 0"},
		"nvme":       {"good: nothing speaks against", "/dev/nvme0n1 QEMU NVMe Ctrl", "rc 0"},
		"scsi":       {"/dev/sdb", "rc 0"},
		"import":     {"of 0 listed blocks 0 are pending now", "rc 0"},
		"no log":     {"it has neither a self-test log nor pending defects", "rc 2"},
		"type":       {"/dev/sda (sat) QEMU HARDDISK", "rc 0"},
		"wrong type": {"smartctl: /dev/sda: Unknown device type 'bogus'", "rc 0"},
		"controller": {"Smartctl open device: /dev/sda [megaraid_disk_00] failed", "rc 0"},
		"configured": {"/dev/sda (sat) QEMU HARDDISK", "rc 0"},
		"odd file":   {"ublk-remap: /etc/ublk-remap/ata.toml:1:", "smart-type", "rc 2"},
		"asleep":     {"to ask it: ublk-remap health ata --wake", "rc 0", "still suspended"},
		"woken":      {"good: nothing speaks against", "rc 0", "still active"},
		"not root":   {"run it as root", "rc 1"},
		"hangs":      {"smartctl has not answered for 30s", "rc 0"},
		"old":        {"smartctl gives no JSON; it is older than 7.0", "rc 0"},
		"none":       {"smartctl is not installed (package smartmontools)", "rc 0"},
	} {
		for _, w := range want {
			if !strings.Contains(said[name], w) {
				t.Errorf("%s: no %q in: %s", name, w, said[name])
			}
		}
		if strings.Contains(said[name], "panic") || said[name] == "" {
			t.Errorf("%s: %s", name, said[name])
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
