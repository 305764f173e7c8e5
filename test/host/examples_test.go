package host

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// example returns the command of a section of docs/COMMAND.md that has a text in it, with the lines
// that go on with it. Words are as in documented. Each example is in the document once.
func example(t *testing.T, heading, has string, words ...string) string {
	t.Helper()
	var found []string
	lines := exampleLines(t, heading)
	for i, line := range lines {
		if !strings.Contains(line, has) || strings.Contains(line, "…") {
			continue
		}
		command := strings.TrimPrefix(line, "# ")
		for j := i + 1; strings.HasSuffix(lines[j-1], `\`); j++ {
			command += "\n" + lines[j]
		}
		found = append(found, command)
	}
	if len(found) != 1 {
		t.Fatalf("COMMAND.md, %s: %d commands with %q: %q", heading, len(found), has, found)
	}
	return strings.NewReplacer(words...).Replace(found[0])
}

// exampleLines returns the indented and the fenced lines of a section, without the indentation. A
// section ends with the next heading of any level.
func exampleLines(t *testing.T, heading string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/COMMAND.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n"+heading+"\n")
	if !found {
		t.Fatalf("COMMAND.md has no heading %q", heading)
	}
	fenced := false
	for line := range strings.Lines(section) {
		line = strings.TrimRight(line, "\n")
		indented, is := strings.CutPrefix(line, "    ")
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			lines = append(lines, line)
		case is:
			lines = append(lines, indented)
		case strings.HasPrefix(line, "#"):
			return lines
		}
	}
	return lines
}

// printed returns what the document says that a command prints: the lines behind it, up to the next
// command.
func printed(t *testing.T, heading, has string) string {
	t.Helper()
	const dry = "--dry-run"
	lines := exampleLines(t, heading)
	for i, line := range lines {
		if !strings.HasPrefix(line, "# ") || !strings.Contains(line, has) ||
			strings.Contains(line, dry) != strings.Contains(has, dry) {
			continue
		}
		var out []string
		for _, l := range lines[i+1:] {
			if strings.HasPrefix(l, "# ") || strings.HasPrefix(l, "ublk-remap ") {
				break
			}
			out = append(out, l)
		}
		return strings.Join(out, "\n")
	}
	t.Fatalf("COMMAND.md, %s: no output of %q", heading, has)
	return ""
}

var (
	digits = regexp.MustCompile(`[0-9][0-9,.]*`)
	blanks = regexp.MustCompile(`[ \t]+`)
)

// shape is a text without what differs from run to run: numbers, and how wide columns are.
func shape(text string) string {
	text = blanks.ReplaceAllString(digits.ReplaceAllString(text, "9"), " ")
	return strings.TrimSpace(strings.ReplaceAll(text, " \n", "\n"))
}

// sameShape compares what a command has printed with what the document says.
func sameShape(t *testing.T, heading, has, got string) {
	t.Helper()
	if want := printed(t, heading, has); shape(got) != shape(want) {
		t.Errorf("%s, %q prints\n%s\nand the document says\n%s", heading, has, got, want)
	}
}

// badDisk makes /dev/mapper/sdb of the disk that the variable disk names, and mounts the one that
// backups names. bad SECTOR... makes those sectors and the seven behind each fail, and no others.
// blocks FILE lists the blocks of 4 KiB of a file of an ext4; meets BLOCK... reads blocks of the
// device, so that those that are bad are known to be.
const badDisk = `
cat >>/root/lib <<'END'
size=$(blockdev --getsz $disk)
bad() {
	pos=0
	{
		for s in $(printf '%s\n' "$@" | sort -n); do
			[ $s = $pos ] || echo "$pos $((s - pos)) linear $disk $pos"
			echo "$s 8 error"
			pos=$((s + 8))
		done
		echo "$pos $((size - pos)) linear $disk $pos"
	} >/root/dmtable
	dmsetup reload sdb /root/dmtable
	dmsetup resume sdb
}
blocks() { debugfs -R "blocks $2" $1 2>/dev/null | tr -s ' ' '\n' | grep .; }
meets() {
	for b; do
		dd if=/dev/ublkb0 of=/dev/null bs=4096 skip=$b count=1 iflag=direct 2>/dev/null || :
	done
}
END
. /root/lib
dmsetup create sdb --table "0 $size linear $disk 0"
mkfs.ext4 -q $backups
mkdir -p /backup /srv /mnt/home
mount $backups /backup
cd /backup
`

// TestExamples runs the commands of docs/COMMAND.md for lists, files, fill, scrub, retest, drill
// and health as they stand there, but for the names of disks, and compares what they print with
// what the document says: on each release, and on a kernel of Debian's in QEMU.
func TestExamples(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.Disks = []int64{256 << 20, 512 << 20}
	o.Packages = []string{"gddrescue", "dmsetup", "e2fsprogs", "fdisk"}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, "")
		examples(t, h, "/dev/ubdc", "/dev/ubdd")
	})
	k := debianKernels[0]
	t.Run(k.series, func(t *testing.T) {
		on := k.options(t)
		on.Disks = append(on.Disks, o.Disks...)
		on.Packages = append(on.Packages, o.Packages...)
		examples(t, k.boot(t, on), "/dev/vdd", "/dev/vde")
	})
}

// examples runs them on a disk, with another one for backups.
func examples(t *testing.T, h *system.Host, disk, backups string) {
	t.Helper()
	h.Run("echo disk=" + disk + " >/root/lib\nbackups=" + backups + badDisk)
	run := func(script string) string {
		t.Helper()
		return h.Run(". /root/lib\ncd /backup\n" + script)
	}
	exampleImport(t, run, []string{"/dev/sdb", "/dev/mapper/sdb"})
	exampleFiles(t, run)
	exampleFill(t, run)
	examplePartition(t, run)
	exampleRest(t, run, filepath.Base(disk))
}

type hostRun func(script string) string

func exampleImport(t *testing.T, run hostRun, disk []string) {
	run("bad 204800 204816\n" + example(t, "## import", "badblocks -b 4096 -o bad", disk...))
	run("ublk-remap create /dev/mapper/sdb --name sdb\nublk-remap start sdb")
	got := run(example(t, "## import", "ublk-remap import sdb bad"))
	if !strings.Contains(got, "of 16 listed blocks 16 are pending now") {
		t.Errorf("%s", got)
	}
	run("ublk-remap stop sdb\nbad")
}

func exampleFiles(t *testing.T, run hostRun) {
	const section, free = "## files", "### Free space"
	run(`
ublk-remap create /dev/mapper/sdb --name sdb --force --yes
ublk-remap start sdb
mkfs.ext4 -q -b 4096 /dev/ublkb0
mount /dev/ublkb0 /srv
mkdir /srv/photos
for i in 1 2 3 4 5; do head -c 65536 /dev/urandom >/srv/photos/img_$i.jpg; done
sync
two=$(blocks /dev/ublkb0 /photos/img_2.jpg | head -1)
four=$(blocks /dev/ublkb0 /photos/img_4.jpg | head -1)
five=$(blocks /dev/ublkb0 /photos/img_5.jpg | head -1)
rm /srv/photos/img_5.jpg
sync
echo $two $four $five >/root/bad
bad $((two * 8)) $((four * 8)) $((five * 8))
meets $two $four $five`)
	has := "ublk-remap files sdb --state pending,lost"
	sameShape(t, section, has, run(example(t, section, has)))
	has = "--heal-free --dry-run"
	sameShape(t, free, has, run(example(t, free, has)))
	has = "files sdb --heal-free"
	sameShape(t, free, has, run("ublk-remap files sdb --heal-free"))
	has = "ublk-remap remap retest data --pause 10s"
	sameShape(t, "## remap", has, run("read two four five </root/bad\nbad $((two * 8))\n"+
		example(t, "## remap", has, "data", "sdb", "10s", "1s")+" 2>/dev/null"))
	run("umount /srv\nublk-remap stop sdb\nbad")
}

func exampleFill(t *testing.T, run hostRun) {
	const section = "## fill"
	words := []string{"/dev/sdX", "/dev/mapper/sdb", "--in-place", "--in-place --yes"}
	run(`
wipefs -qa /dev/mapper/sdb
dd if=/dev/zero of=/dev/mapper/sdb bs=1M count=256 2>/dev/null
mkfs.ext4 -q -b 4096 /dev/mapper/sdb 200M
mount /dev/mapper/sdb /mnt/home
mkdir /mnt/home/photos
head -c 65536 /dev/urandom >/mnt/home/photos/1.jpg
head -c 65536 /dev/urandom >/mnt/home/notes.txt
head -c 65536 /dev/urandom >/mnt/home/gone
cp -a /mnt/home /backup/home
printf x | dd of=/backup/home/notes.txt bs=1 seek=4711 conv=notrunc 2>/dev/null
sync
for f in photos/1.jpg notes.txt gone; do blocks /dev/mapper/sdb /$f | sed -n 9p; done >/root/bad
umount /mnt/home
bad $(($(sed -n 3p /root/bad) * 8))`)
	run(example(t, section, "ddrescue -d /dev/sdX", words...))
	run(example(t, section, "create --in-place", words...) + "\n" +
		example(t, section, "ublk-remap start old"))
	run(`
bad $(($(sed -n 1p /root/bad) * 8)) $(($(sed -n 3p /root/bad) * 8))
meets $(sed -n '1p;3p' /root/bad)`)
	dry := run(example(t, section, "--map /backup/sdX.map --dry-run"))
	got := run("ublk-remap fill old --from /backup/sdX.img --map /backup/sdX.map\n" +
		"ublk-remap status old --json")
	if !strings.Contains(dry, "8") || !strings.Contains(got, `"pending": 8`) {
		t.Errorf("%s\n%s", dry, got)
	}
	run(`
bad $(for b in $(cat /root/bad); do echo $((b * 8)); done)
mount /dev/ublkb0 /mnt/home
cmp /mnt/home/photos/1.jpg /backup/home/photos/1.jpg
ublk-remap remap remove old 0+1 >/dev/null || :
first=$(sed -n 1p /root/bad)
next=$((first + 1))
bad $((next * 8)) $(($(sed -n 2p /root/bad) * 8))
meets $next $(sed -n 2p /root/bad) $(sed -n 3p /root/bad)
ublk-remap remap remove old $(sed -n 3p /root/bad | awk '{print $1 * 8 "+8"}') >/dev/null || :
echo 3 >/proc/sys/vm/drop_caches`)
	const files = "### fill --files"
	sameShape(t, files, "fill old --files", run(example(t, files, "fill old --files")))
	exampleTable(t, run)
}

// exampleTable shows the set old without a server.
func exampleTable(t *testing.T, run hostRun) {
	run("umount /mnt/home\n" +
		example(t, "## export", "--format dmsetup >table", "export sdb", "export old"))
	run("ublk-remap stop old\n" + example(t, "## export", "dmsetup create --readonly"))
	run(example(t, "## export", "mount -o ro,noload") + `
cmp /mnt/photos/1.jpg /backup/home/photos/1.jpg
umount /mnt
dmsetup remove disk
bad`)
}

// examplePartition lists the bad blocks of a partition for e2fsck.
func examplePartition(t *testing.T, run hostRun) {
	run(`
ublk-remap create /dev/mapper/sdb --name sdb --force --yes
ublk-remap start sdb
echo ',,L' | sfdisk -q /dev/ublkb0
udevadm settle
mkfs.ext4 -q -b 4096 /dev/ublkb0p1
start=$(($(cat /sys/class/block/ublkb0p1/start) / 8))
bad $(((start + 20000) * 8)) $(((start + 20002) * 8))
meets $((start + 20000)) $((start + 20002))`)
	run(example(t, "## export", "--format badblocks --block-size 4096"))
	got := run(example(t, "## export", "e2fsck -l bad", "e2fsck", "e2fsck -y") +
		" >/dev/null 2>&1 || test $? = 1\ncat bad\ndumpe2fs -b /dev/ublkb0p1 2>/dev/null")
	if got != "20000\n20002\n20000\n20002" {
		t.Errorf("%s", got)
	}
}

// exampleRest runs what needs no bad blocks.
func exampleRest(t *testing.T, run hostRun, disk string) {
	for _, c := range []struct{ section, has string }{
		{"## drill", "ublk-remap drill data"},
		{"## scrub", "ublk-remap scrub status data"},
		{"## health", "ublk-remap health data"},
	} {
		before := ""
		if c.section == "## scrub" {
			before = example(t, c.section, "ublk-remap scrub start data", "data", "sdb") +
				" >/dev/null 2>&1\n"
		}
		got := run(before + example(t, c.section, c.has, "data", "sdb") + " 2>/dev/null")
		sameShape(t, c.section, c.has, strings.NewReplacer("(sdb)", "(data)", disk, "sdb",
			"1 hour", "26 days").Replace(got))
	}
	run("ublk-remap stop sdb")
}
