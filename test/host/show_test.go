package host

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// showEnv is for how many minutes four disks fail in TestShow. make show sets it.
const showEnv = "UBLK_REMAP_SHOW"

// fasten makes a second copy of the rules for Prometheus, called FastX, in which times are a
// thirtieth: so that alerts that take an hour are seen to fire, and those that last an hour to
// resolve, within minutes.
func fasten(rules string) string {
	rules = strings.ReplaceAll(strings.Replace(rules, "name: ublk-remap", "name: fast", 1),
		"alert: UblkRemap", "alert: Fast")
	unit := map[string]int{"m": 60, "h": 3600, "d": 86400}
	for _, form := range []string{`for: (\d+)([mhd])`, `\[(\d+)([mhd])\]`} {
		at := regexp.MustCompile(form)
		rules = at.ReplaceAllStringFunc(rules, func(s string) string {
			m := at.FindStringSubmatch(s)
			n, _ := strconv.Atoi(m[1])
			return strings.Replace(s, m[1]+m[2], fmt.Sprintf("%ds", n*unit[m[2]]/30), 1)
		})
	}
	return rules
}

// prepareShow installs the package, Prometheus with the project's rules, and four sets.
const prepareShow = `
dpkg -i /payload/ublk-remap.deb
cat >/etc/prometheus/prometheus.yml <<'END'
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [/payload/rules.yml, /payload/fast.yml]
scrape_configs:
  - job_name: ublk-remap
    static_configs: [{targets: ['127.0.0.1:9947']}]
END
promtool check config /etc/prometheus/prometheus.yml
cat >/var/lib/sendmail <<'END'
#!/bin/sh
cat >>/var/lib/ublk-remap/mail
END
chmod 755 /var/lib/sendmail
cat >/etc/ublk-remap/monitor.conf <<'END'
mail-to = ["root"]
sendmail = "/var/lib/sendmail"
interval = "1s"
END
modprobe scsi_debug dev_size_mb=64 sector_size=512
udevadm settle
gone=/dev/$(ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block | tail -1)
echo $gone >/run/gone
i=c
for name in bad slow flapping; do
	dmsetup create $name --table "0 $(blockdev --getsz /dev/ubd$i) linear /dev/ubd$i 0"
	i=$(echo $i | tr c-y d-z)
done
udevadm settle
for name in bad slow flapping; do
	ublk-remap create --name $name --spare 512KiB /dev/mapper/$name
	ublk-remap start $name
done
ublk-remap create --name gone $gone
ublk-remap start gone
systemctl enable --now ublk-remap-monitor
systemctl restart prometheus
cat >/run/load <<'END'
dev=/dev/disk/by-id/ublk-remap-$1
n=0
while :; do
	dd if=/dev/urandom of=$dev bs=64k count=16 seek=$((n % 900 )) oflag=direct conv=notrunc,fsync
	dd if=$dev of=/dev/null bs=64k count=16 skip=$((n % 900)) iflag=direct
	n=$((n + 16))
	sleep 0.3
done
END
for name in bad slow flapping gone; do
	systemd-run -q --unit load-$name -p StandardError=null sh /run/load $name
done`

// fault is what happens in the show, at a part of its time.
type fault struct {
	at     float64 // of the whole
	what   string
	script string
}

var showFaults = []fault{
	{0.05, "bad: sectors go bad, in twenty places", `
size=$(blockdev --getsz /dev/ubdc)
at=0
for i in $(seq 1 20); do
	bad=$((4096 * i))
	echo "$at $((bad - at)) linear /dev/ubdc $at"
	echo "$bad 8 error"
	at=$((bad + 8))
done >/run/table
echo "$at $((size - at)) linear /dev/ubdc $at" >>/run/table
dmsetup suspend bad && dmsetup load bad /run/table && dmsetup resume bad`},
	{0.08, "slow: each request takes a second and a half", `
dmsetup suspend slow
dmsetup load slow --table "0 $(blockdev --getsz /dev/ubdd) delay /dev/ubdd 0 1500 /dev/ubdd 0 1500"
dmsetup resume slow`},
	{0.10, "flapping: it is there for two seconds, and away for three", `
dmsetup suspend flapping
dmsetup load flapping --table "0 $(blockdev --getsz /dev/ubde) flakey /dev/ubde 0 2 3"
dmsetup resume flapping`},
	{0.12, "gone: the disk is pulled out", `
echo 1 >/sys/block/$(basename $(cat /run/gone))/device/delete`},
	{0.35, "gone: its server dies as well", `
kill -9 $(ublk-remap status gone --json | jq .server_pid)`},
	{0.60, "slow: as fast as before", `
dmsetup suspend slow
dmsetup load slow --table "0 $(blockdev --getsz /dev/ubdd) linear /dev/ubdd 0"
dmsetup resume slow`},
	{0.62, "flapping: the cable is mended, and an operator resumes it", `
dmsetup suspend flapping
dmsetup load flapping --table "0 $(blockdev --getsz /dev/ubde) linear /dev/ubde 0"
dmsetup resume flapping
ublk-remap resume flapping || ublk-remap status flapping`},
	{0.65, "gone: the disk is plugged in again, and its server started", `
for scan in /sys/class/scsi_host/host*/scan; do echo '- - -' >$scan; done
udevadm settle
ls -l $(cat /run/gone)
ublk-remap start gone`},
	{0.70, "bad: what does not read is written anew", `
systemctl stop load-bad
dd if=/dev/zero of=/dev/disk/by-id/ublk-remap-bad bs=1M oflag=direct conv=notrunc || true
ublk-remap status bad`},
}

// TestShow: four disks that fail in different ways, one with bad sectors, one slow, one that flaps,
// one that is gone, watched by a real Prometheus with the project's rules, and looked at in a real
// browser. Alerts fire, and resolve once the cause is mended. dist/show has what was seen.
func TestShow(t *testing.T) {
	minutes, err := strconv.ParseFloat(os.Getenv(showEnv), 64)
	if err != nil {
		t.Skip("takes more than ten minutes; run it by: make show")
	}
	needHosts(t)
	rules, err := os.ReadFile("../../contrib/prometheus/ublk-remap.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	fast := filepath.Join(t.TempDir(), "fast.yml")
	if err := os.WriteFile(fast, []byte(fasten(string(rules))), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := filepath.Abs("../../dist/show")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	h := system.New(t, system.Options{Suite: "bookworm", MemoryMiB: 1536,
		Disks:    []int64{64 << 20, 64 << 20, 64 << 20},
		Packages: []string{"prometheus", "curl", "jq"},
		Payload: map[string]string{"ublk-remap.deb": deb(t, "0.0.1"), "fast.yml": fast,
			"rules.yml": "../../contrib/prometheus/ublk-remap.rules.yml"}})
	h.Boot()
	h.Run(prepareShow)
	shared := t.TempDir()
	url := forward(t, h, shared)
	h.Eventually(2*time.Minute, `
curl -s 'localhost:9090/api/v1/query?query=ublk_remap_monitor_success' | grep '"1"'`)
	length := time.Duration(minutes * float64(time.Minute))
	began := time.Now()
	start := strings.TrimSpace(h.Run("date +%s"))
	for i, f := range showFaults {
		time.Sleep(time.Until(began.Add(time.Duration(f.at * float64(length)))))
		said, code := h.Try(f.script)
		t.Logf("%v: %s (exit code %d)\n%s", time.Since(began).Round(time.Second), f.what, code,
			said)
		if i == 4 {
			time.Sleep(time.Until(began.Add(time.Duration(0.5 * float64(length)))))
			look(t, url, out, "failing")
		}
	}
	time.Sleep(time.Until(began.Add(length)))
	look(t, url, out, "mended")
	seen := firings(t, h, start, shared)
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		t.Log(name, seen[name])
	}
	for _, want := range []struct {
		alert    string
		resolves bool
	}{
		{"UblkRemapNewBadBlocks bad", false}, // within a day
		{"FastBlocksPending bad", true},
		{"FastSlow slow", true},
		{"UblkRemapTripped flapping", true},
		{"UblkRemapDiskMissing gone", true},
		{"UblkRemapServerDead gone", true},
	} {
		s, fired := seen[want.alert]
		if !fired || want.resolves && !s.resolved {
			t.Errorf("%s: fired %v, %+v", want.alert, fired, s)
		}
	}
	text := h.Run("cat /var/lib/ublk-remap/mail; ublk-remap alerts list; ublk-remap status --brief")
	if err := os.WriteFile(filepath.Join(out, "mail.txt"), []byte(text), 0o644); err != nil {
		t.Error(err)
	}
	for _, sentence := range []string{"The server of gone is dead", "Remapping of flapping is"} {
		if !strings.Contains(strings.ReplaceAll(text, "=\n", ""), sentence) {
			t.Errorf("no mail says %q", sentence)
		}
	}
}

// firing is when an alert fired, in seconds from the start.
type firing struct {
	from, to int64
	resolved bool
}

func (f firing) String() string {
	text := fmt.Sprintf("fired from %d s to %d s", f.from, f.to)
	if !f.resolved {
		text += ", and fires still"
	}
	return text
}

// firings asks Prometheus which alerts have fired since start, by name and set.
func firings(t *testing.T, h *system.Host, start, shared string) map[string]firing {
	t.Helper()
	h.Run(fmt.Sprintf(`curl -sG localhost:9090/api/v1/query_range --data-urlencode \
	'query=ALERTS{alertstate="firing"}' -d start=%s -d end=$(date +%%s) -d step=2 \
	--output /shared/alerts.json && sync /shared/alerts.json`, start))
	b, err := os.ReadFile(filepath.Join(shared, "alerts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric struct{ Alertname, Set, Way, Instance string }
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil || len(answer.Data.Result) == 0 {
		t.Fatalf("%v: %s", err, b)
	}
	first, _ := strconv.ParseInt(start, 10, 64)
	end := int64(0)
	all := map[string]firing{}
	for _, r := range answer.Data.Result {
		name := r.Metric.Alertname + " " + cmp.Or(r.Metric.Set, r.Metric.Way, r.Metric.Instance)
		for _, v := range r.Values {
			at := int64(v[0].(float64)) - first
			f, ever := all[name]
			if !ever {
				f.from = at
			}
			f.to = max(f.to, at)
			all[name] = f
			end = max(end, at)
		}
	}
	for name, f := range all {
		f.resolved = f.to < end-4
		all[name] = f
	}
	return all
}

// look has a browser look at the page of all devices and of each, in light, in dark and on a phone,
// and keeps screenshots.
func look(t *testing.T, url, out, when string) {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Log("no screenshots: there is no chromium here")
		return
	}
	shot := func(name, path string, args ...string) {
		// A screenshot of an error is one as well.
		if answer, err := http.Get(url + path); err != nil {
			t.Errorf("%s: %v", path, err)
		} else if answer.Body.Close(); answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, answer.Status)
		}
		file := filepath.Join(out, when+"-"+name+".png")
		_ = os.Remove(file)
		cmd := exec.Command("timeout", append([]string{"-k", "5", "120", browser, "--headless=new",
			"--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
			"--user-data-dir=" + filepath.Join(t.TempDir(), name), "--timeout=30000",
			"--screenshot=" + file}, append(args, url+path)...)...)
		said, err := cmd.CombinedOutput()
		if st, statErr := os.Stat(file); statErr != nil || st.Size() < 5000 {
			t.Errorf("%s: %v: %s", file, err, said)
		}
	}
	shot("all", "/", "--window-size=1280,1600")
	shot("all-dark", "/", "--window-size=1280,1600", "--force-dark-mode",
		"--blink-settings=preferredColorScheme=0")
	shot("all-phone", "/", "--window-size=500,1600")
	for _, name := range []string{"bad", "slow", "flapping", "gone"} {
		shot(name, "/device/"+name, "--window-size=1280,3000")
	}
}

// TestMonitorCost: what a monitor that is scraped once a second costs the users of a device. It
// prints the numbers side by side, and judges nothing.
func TestMonitorCost(t *testing.T) {
	if os.Getenv(showEnv) == "" {
		t.Skip("measures; run it by: make show")
	}
	needHosts(t)
	h := system.New(t, system.Options{Suite: "bookworm", MemoryMiB: 1024,
		Packages: []string{"fio", "curl", "jq"},
		Payload:  map[string]string{"ublk-remap.deb": deb(t, "0.0.1")}})
	h.Boot()
	h.Run(`
dpkg -i /payload/ublk-remap.deb
truncate -s 256M /dev/shm/disk
dev=$(losetup --show -f /dev/shm/disk)
ublk-remap create --name data $dev
ublk-remap start data
cat >/run/scrape <<'END'
while :; do curl -s -o /dev/null localhost:9947/metrics; sleep 1; done
END
cat >/run/measure <<'END'
fio --name=x --filename=/dev/disk/by-id/ublk-remap-data --direct=1 --ioengine=io_uring --rw=$1 \
	--bs=4k --iodepth=$2 --runtime=3 --time_based --output-format=json |
	jq '.jobs[0] | .read.iops + .write.iops | floor'
END`)
	for _, cell := range []string{"randread 32", "randwrite 32", "randread 1", "randwrite 1"} {
		var without, with []int
		for range 7 {
			for _, on := range []bool{false, true} {
				script := "sh /run/measure " + cell
				if on {
					script = "systemctl start ublk-remap-monitor\n" +
						"systemd-run -q --unit scrape sh /run/scrape\nsleep 1\n" + script +
						"\nsystemctl stop scrape ublk-remap-monitor"
				}
				n, err := strconv.Atoi(strings.TrimSpace(h.Run(script)))
				if err != nil {
					t.Fatal(err)
				}
				if on {
					with = append(with, n)
				} else {
					without = append(without, n)
				}
			}
		}
		slices.Sort(without)
		slices.Sort(with)
		a, b := without[len(without)/2], with[len(with)/2]
		t.Logf("%-12s without %d, scraped once a second %d IOPS (medians of 7): %+.1f %%", cell, a,
			b, 100*float64(b-a)/float64(a))
	}
}
