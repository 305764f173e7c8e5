package host

import (
	"strings"
	"testing"

	"ublkremap/test/vmtest/system"
)

// ownersTools are functions of the scripts below. A set NAME lies on /dev/mapper/disk-NAME, whose
// sectors can be made bad.
const ownersTools = `
set -e
disk() { # NAME DISK
	dmsetup create disk-$1 --table "0 $(blockdev --getsz $2) linear $2 0"
	ublk-remap create --name $1 --spare 4MiB /dev/mapper/disk-$1
	ublk-remap start $1 >/run/$1.dev
	udevadm settle
}
dev() { cat /run/$1.dev; }
# bad makes 4 KiB of a set bad, behind its first 2 MiB, and has them read.
bad() { # NAME SECTOR
	local table=$(dmsetup table disk-$1) of size end=$(($2 + 8))
	of=$(echo "$table" | awk '{print $4}') size=$(echo "$table" | awk '{print $2}')
	echo $2 >/run/$1.bad
	printf '0 %d linear %s 0\n%d 8 error\n%d %d linear %s %d\n' $2 $of $2 $end $((size - end)) \
		$of $end | dmsetup reload disk-$1
	dmsetup resume disk-$1
	echo 3 >/proc/sys/vm/drop_caches
	if dd if=$(dev $1) of=/dev/null bs=4096 skip=$(($2 / 8)) count=1 iflag=direct 2>/dev/null; then
		return 1
	fi
	ublk-remap status $1 --json | grep -q '"pending": 8,'
}
well() { # NAME
	local table=$(dmsetup table disk-$1)
	local of=$(echo "$table" | awk '/linear/{print $4; exit}')
	local size=$(echo "$table" | awk '{n += $2} END {print n}')
	dmsetup reload disk-$1 --table "0 $size linear $of 0"
	dmsetup resume disk-$1
}
# marked makes files in a directory: one to keep, and one that is deleted. Their lines have 16
# bytes and say which file it is.
marked() { # DIR
	head -c 6M /dev/zero >$1/filler
	seq -f 'keep %010.0f' 0 131071 >"$1/keep it"
	seq -f 'gone %010.0f' 0 131071 >$1/gone
	sync -f $1
	sha256sum <"$1/keep it" >/run/sum
	cp "$1/keep it" /root/backup/
}
# find_line says at which sector of a device a line of a file is that begins a block of 4 KiB.
find_line() { # DEVICE WORD
	perl -e 'open(D, "<:raw", $ARGV[0]) or die;
		for (my $at = 0; my $n = sysread(D, my $b, 1 << 20); $at += $n) {
			for (my $i = 0; $i < $n; $i += 4096) {
				if (substr($b, $i, 15) eq $ARGV[1]) { print(($at + $i) / 512); exit 0 }
			}
		}
		exit 1' $1 "$2 0000065536"
}
mkdir -p /root/backup /top
`

// healLayer is run for each layer. NAMES are those of the sets. If there is no plain text on their
// devices, PLAIN is the device that has it, and SHIFT the sector of the one set at which it begins.
const healLayer = `
marked /top
for f in keep gone; do
	set_of= at=
	for name in $NAMES; do
		if [ -n "$SHIFT" ]; then
			set_of=$name at=$(($(find_line $PLAIN $f) + SHIFT))
		elif at=$(find_line $(dev $name) $f); then
			set_of=$name
			break
		fi
	done
	test -n "$set_of"
	eval "set_$f=$set_of at_$f=$at"
done
# A file is damaged. An image of the disk, whatever is in it, fills the block.
dd if=$(dev $set_keep) of=/dev/ubdf bs=1M iflag=direct oflag=direct status=none
bad $set_keep $at_keep
echo == files; ublk-remap files $set_keep --state pending
echo == status; ublk-remap status $set_keep --files | grep files
if cmp "/top/keep it" "/root/backup/keep it" 2>/dev/null; then exit 1; fi
echo == backup; ublk-remap fill $set_keep --files /root/backup --of /top
echo == free; ublk-remap files $set_keep --heal-free
echo == image; ublk-remap fill $set_keep --from /dev/ubdf --offset 0
echo 3 >/proc/sys/vm/drop_caches
sha256sum <"/top/keep it" | cmp - /run/sum
ublk-remap files $set_keep --state pending,lost
well $set_keep
# Free space heals itself.
rm /top/gone
sync -f /top
bad $set_gone $at_gone
echo == gone; ublk-remap files $set_gone --state pending
ublk-remap files $set_gone --heal-free
dd if=$(dev $set_gone) of=/dev/null bs=4096 skip=$((at_gone / 8)) count=1 iflag=direct status=none
ublk-remap status $set_gone --json | grep -q '"pending": 0,'
well $set_gone
rm /top/filler "/top/keep it"
`

var ownersLayers = []struct{ name, script, says string }{
	{"lvm, linear, on two disks", `
disk one /dev/ubdc
disk two /dev/ubdd
pvcreate -q $(dev one) $(dev two)
vgcreate -q vg $(dev one) $(dev two)
# More than a disk has, so that the files are on both or on either.
lvcreate -q -y -Wn -n data -L 160M vg
mkfs.ext4 -q -b 4096 /dev/vg/data
mount /dev/vg/data /top
NAMES="one two" PLAIN= SHIFT=
`, "ext4 on /dev/mapper/vg-data, mounted on /top"},
	{"lvm, striped, xfs", `
umount /top
lvremove -q -y vg/data
lvcreate -q -y -Wn -n wide -i 2 -I 64k -L 200M vg
mkfs.xfs -q -K -f --unsupported /dev/vg/wide 2>/dev/null || mkfs.xfs -q -K -f /dev/vg/wide
mount /dev/vg/wide /top
NAMES="one two" PLAIN= SHIFT=
`, "xfs on /dev/mapper/vg-wide, mounted on /top"},
	{"luks2, in a partition", `
umount /top
disk crypt /dev/ubde
printf 'label: gpt\n8192\n' | sfdisk -q $(dev crypt)
udevadm settle
head -c 32 /dev/urandom >/root/key
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
	--key-file /root/key $(dev crypt)p1
cryptsetup open --key-file /root/key $(dev crypt)p1 secret
mkfs.ext4 -q -b 4096 /dev/mapper/secret
mount /dev/mapper/secret /top
SHIFT=$((8192 + $(cryptsetup status secret | awk '/offset:/{print $2; exit}')))
NAMES=crypt PLAIN=/dev/mapper/secret
`, "ext4 on /dev/mapper/secret, mounted on /top"},
}

// Owners are found, and bad blocks healed, through LVM and LUKS made by their own tools: linear and
// striped volumes on two sets, an encrypted one in a partition. The owner of what cannot be
// followed is unknown, and one line says why.
func TestOwnersThroughLayers(t *testing.T) {
	long(t)
	o := withPackage(t)
	o.MemoryMiB = 1024
	o.Packages = []string{"lvm2", "cryptsetup-bin", "thin-provisioning-tools", "xfsprogs"}
	o.Disks = []int64{128 << 20, 128 << 20, 128 << 20, 128 << 20}
	onEach(t, o, func(t *testing.T, h *system.Host) {
		prepared(h, "")
		for _, l := range ownersLayers {
			out := h.Run(ownersTools + l.script + healLayer)
			t.Logf("%s:\n%s", l.name, out)
			for _, part := range []struct{ name, says string }{
				{"files", "file       /top/keep it\n1 file is damaged: /top/keep it"},
				{"status", "1 file is damaged: /top/keep it"},
				{"backup", "left alone  /top/keep it"},
				{"free", "healed 0 blocks of free space\n1 file is damaged"},
				{"image", "filled  8 of 8 bad blocks"},
				{"gone", "free space (" + l.says + ")\n0 files affected\nhealed 8 blocks"},
			} {
				_, said, _ := strings.Cut(out, "== "+part.name+"\n")
				said, _, _ = strings.Cut(said, "\n==")
				if !strings.Contains(said, part.says) {
					t.Errorf("%s: %s says:\n%s\nwant %s", l.name, part.name, said, part.says)
				}
			}
		}
		unfollowed(t, h)
	})
}

// unfollowed asks about a thin pool, and about a volume with a snapshot.
func unfollowed(t *testing.T, h *system.Host) {
	t.Helper()
	out := h.Run(ownersTools + `
umount /top
cryptsetup close secret
vgremove -q -y vg
vgcreate -q vg $(dev one)
lvcreate -q -y -n pool --type thin-pool -L 60M vg
lvcreate -q -y -n thin -V 100M --thinpool vg/pool
mkfs.ext4 -q -b 4096 /dev/vg/thin
mount /dev/vg/thin /top
marked /top
bad one $(find_line $(dev one) keep)
ublk-remap files one
ublk-remap files one --heal-free
well one
ublk-remap remap retest one --pause 0s >/dev/null
umount /top
lvremove -q -y vg
lvcreate -q -y -Wn -n data -L 40M vg
mkfs.ext4 -q -b 4096 /dev/vg/data
mount /dev/vg/data /top
marked /top
lvcreate -q -y -s -n snap -L 20M vg/data
echo == snapshot
rm /top/gone
sync -f /top
bad one $(find_line $(dev one) gone)
ublk-remap files one --heal-free
ublk-remap files one
umount /top`)
	t.Log(out)
	thin, snapshot, _ := strings.Cut(out, "== snapshot")
	if !strings.Contains(thin, `whose target "thin-pool" is not followed`) ||
		!strings.Contains(thin, "healed 0 blocks of free space\n0 files affected; of 8 blocks "+
			"the owner is not known") {
		t.Errorf("of a thin pool it says:\n%s", thin)
	}
	// The snapshot has what is deleted. Both use the block, which is counted once.
	if !strings.Contains(snapshot, "healed 0 blocks of free space\n0 files affected; of 8 blocks "+
		"the owner is not known") || !strings.Contains(snapshot, `"snapshot-origin"`) ||
		!strings.Contains(snapshot, "is not followed") {
		t.Errorf("of a volume with a snapshot it says:\n%s", snapshot)
	}
}
