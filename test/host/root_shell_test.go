package host

import (
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// shells are how docs/BOOT.md comes to a shell in the initramfs, by the program that made it.
var shells = map[string]struct {
	// append goes to the kernel's command line.
	append string
	// first is typed before the commands, which are typed at the prompt.
	first  []system.Typed
	prompt string
	// commands follow this text of the page.
	commands string
}{
	// Hosts here have panic=-1, with which an initramfs gives no shell. Without a number the word
	// changes this for the initramfs, and not for the kernel.
	"initramfs-tools": {" break=mount panic=", nil, "", "**Without a rescue system**"},
	// sulogin waits for Enter, because root has no password here.
	"dracut": {" rd.break=pre-mount SYSTEMD_SULOGIN_FORCE=1",
		[]system.Typed{{Prompt: "(or press Control-D to continue): ", Text: "\n"}}, "# ",
		"**With dracut**"},
}

// The root disk of an installed system is put behind ublk-remap in place in the shell of the
// initramfs, as docs/BOOT.md says. The commands are typed at the console.
func TestRootFromShell(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{256 << 20}
	o.MemoryMiB = 768
	for _, i := range initramfses {
		t.Run(i.name, func(t *testing.T) {
			o.Suite, o.Packages = i.suite, i.packages
			h := system.New(t, o)
			loader := rootPrepared(h, i)
			shell, how := loader, shells[i.packages[0]]
			shell.Append += how.append
			shell.Type = append(how.first, system.Typed{Prompt: how.prompt,
				Text: typedInShell(t, how.commands, h.RootDisk())})
			h.BootWith(&shell)
			h.Boot()
			onSet(t, h, "0.0.1")
			h.Run("cp /usr/bin/busctl /root/whole")
			h.BootWith(&loader)
			h.Reboot()
			onSet(t, h, "0.0.1")
			h.PowerOff()
			rootChecked(t, h)
		})
	}
}

// typedInShell is what a user types there, after having read what size the file system must have.
func typedInShell(t *testing.T, commands, disk string) string {
	t.Helper()
	text := documentedPart(t, "BOOT.md", commands, "/dev/sda2", disk, "SIZEK", "${size%%K*}K")
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "ublk-remap create") && i+1 < len(lines) &&
			strings.HasPrefix(lines[i+1], "resize2fs") {
			lines[i] = "said=$(" + strings.TrimSuffix(line, "\n") + " 2>&1)\n" +
				"echo \"$said\"\nsize=${said##*resize2fs " + disk + " }\n"
			return strings.Join(lines, "")
		}
	}
	t.Fatalf("no size is read:\n%s", text)
	return ""
}
