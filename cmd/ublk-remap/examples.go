package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are command lines for the help and the manual page of a verb. old is a set by that name.
var examples = map[string]string{
	"alerts ack": `
    ublk-remap alerts ack old
    ublk-remap alerts ack --all`,
	"check": `
    ublk-remap check
    ublk-remap check old --spare-warning 50 --spare-critical 10`,
	"create": `
    ublk-remap create /dev/sdX --name old --scan
    ublk-remap create /dev/sdX --spare 2GiB --badblocks bad.txt
    ublk-remap create /dev/sdX --in-place --dry-run
    ublk-remap create /dev/sdX --in-place --spare-device /dev/sdY`,
	"enable": `
    ublk-remap enable old --now
    ublk-remap enable /dev/disk/by-id/ata-DISK --queues 2`,
	"events": `
    ublk-remap events old
    ublk-remap events old --follow
    ublk-remap events /dev/sdX --json`,
	"export": `
    ublk-remap export old --format badblocks --block-size 4096 >bad.txt
    ublk-remap export /dev/sdX --format dmsetup >table`,
	"files": `
    ublk-remap files old
    ublk-remap files old 123456+8 --json
    ublk-remap files old --heal-free --dry-run`,
	"fill": `
    ublk-remap fill old --from disk.img --map disk.map --dry-run
    ublk-remap fill old --files /mnt/backup --of /home`,
	"health": `
    ublk-remap health old
    ublk-remap health old --smart-type megaraid,3`,
	"import": `
    ublk-remap import old bad.txt --format badblocks --dry-run
    smartctl --json -x /dev/sdX | ublk-remap import old - --format smart`,
	"metadata backup": `
    ublk-remap metadata backup old /mnt/usb/old.backup`,
	"metadata repair": `
    ublk-remap metadata repair /dev/sdX --dry-run
    ublk-remap metadata repair /dev/sdX`,
	"metadata restore": `
    ublk-remap metadata restore /dev/sdX /mnt/usb/old.backup --dry-run
    ublk-remap metadata restore /dev/sdX /mnt/usb/old.backup`,
	"monitor": `
    ublk-remap monitor
    ublk-remap monitor --listen 192.0.2.7:9947 --web-config web.yml
    ublk-remap monitor --textfile /var/lib/prometheus/node-exporter`,
	"release": `
    ublk-remap release /dev/sdX --dry-run
    ublk-remap release /dev/sdX`,
	"remap add": `
    ublk-remap remap add old 123456 200000+8`,
	"remap retest": `
    ublk-remap remap retest old
    ublk-remap remap retest old 123456+8 --pause 10m`,
	"scrub start": `
    ublk-remap scrub start old --wait
    ublk-remap scrub start old --rate 20MiB --interval 168h`,
	"start": `
    ublk-remap start /dev/sdX
    ublk-remap start old --queues 2 --depth 64
    ublk-remap start --all`,
	"status": `
    ublk-remap status
    ublk-remap status old --watch 5
    ublk-remap status --brief`,
	"stop": `
    ublk-remap stop old
    ublk-remap stop --all`,
}

// addExamples gives the verbs their examples.
func addExamples(root *cobra.Command) {
	for path, text := range examples {
		cmd, _, err := root.Find(strings.Fields(path))
		if err != nil {
			panic(err) // a verb was renamed
		}
		cmd.Example = strings.TrimPrefix(text, "\n")
	}
}
