package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"ublkremap/test/vmtest/system"
)

// showEnv is for how many minutes four disks fail in TestShow. make show sets it.
const showEnv = "UBLK_REMAP_SHOW"

// fasten makes a second copy of the rules for Prometheus, called FastX, in which an hour is hour
// and a day is a little longer: so that alerts that take an hour are seen to fire, and those that
// last a day to resolve, within minutes. least is the shortest window that is of use.
func fasten(rules string, hour, least time.Duration) string {
	rules = strings.ReplaceAll(strings.Replace(rules, "name: ublk-remap", "name: fast", 1),
		"alert: UblkRemap", "alert: Fast")
	unit := map[string]time.Duration{"m": hour / 60, "h": hour, "d": 2 * hour}
	for _, form := range []string{`(for: )(\d+)([mhd])()`, `(\[)(\d+)([mhd])(\])`} {
		at := regexp.MustCompile(form)
		rules = at.ReplaceAllStringFunc(rules, func(s string) string {
			m := at.FindStringSubmatch(s)
			n, _ := strconv.Atoi(m[2])
			long := time.Duration(n) * unit[m[3]]
			if m[1] == "[" {
				long = max(long, least)
			}
			return fmt.Sprintf("%s%ds%s", m[1], max(1, int(long.Seconds())), m[4])
		})
	}
	return rules
}

// prepareShow installs the package, Prometheus with the project's rules, and four sets. The load of
// bad writes the first half of the device, and reads all of it: so bad blocks of the other half
// stay pending. That of slow has many requests under way, because only some of them are timed where
// a look at the clock takes long, as here.
const prepareShow = `
dpkg -i /payload/ublk-remap.deb
sed "s/BETWEEN/$between/g" >/etc/prometheus/prometheus.yml <<'END'
global: {scrape_interval: BETWEENs, scrape_timeout: BETWEENs, evaluation_interval: BETWEENs}
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
	dd if=/dev/urandom of=$dev bs=64k count=16 seek=$((n % 448)) oflag=direct conv=notrunc,fsync
	dd if=$dev of=/dev/null bs=64k count=16 skip=$((n % 896)) iflag=direct conv=noerror
	n=$((n + 16))
	sleep 0.3
done
END
for name in bad flapping gone; do
	systemd-run -q --unit load-$name -p StandardError=null sh /run/load $name
done
systemd-run -q --unit load-slow -p StandardOutput=null fio --name=slow --ioengine=libaio \
	--filename=/dev/disk/by-id/ublk-remap-slow --direct=1 --rw=randrw --bs=4k --iodepth=64 \
	--rate_iops=50,50 --time_based --runtime=1d`

// fault is what happens in the show, at a part of its time.
type fault struct {
	at     float64 // of the whole
	what   string
	script string
}

// Nobody waits for udev, which reads the changed disk: from a slow one that takes minutes.
var showFaults = []fault{
	{0.05, "bad: sectors go bad, in forty places", `
size=$(blockdev --getsz /dev/ubdc)
at=0
for i in $(seq 1 40); do
	bad=$((2504 * i))
	echo "$at $((bad - at)) linear /dev/ubdc $at"
	echo "$bad 8 error"
	at=$((bad + 8))
done >/run/table
echo "$at $((size - at)) linear /dev/ubdc $at" >>/run/table
dmsetup suspend bad && dmsetup load bad /run/table && dmsetup --noudevsync resume bad`},
	{0.07, "slow: each request takes four seconds", `
dmsetup suspend slow
dmsetup load slow --table "0 $(blockdev --getsz /dev/ubdd) delay /dev/ubdd 0 4000 /dev/ubdd 0 4000"
dmsetup --noudevsync resume slow`},
	{0.09, "flapping: it is there for two seconds, and away for three", `
dmsetup suspend flapping
dmsetup load flapping --table "0 $(blockdev --getsz /dev/ubde) flakey /dev/ubde 0 2 3"
dmsetup --noudevsync resume flapping`},
	{0.11, "gone: the disk is pulled out", `
echo 1 >/sys/block/$(basename $(cat /run/gone))/device/delete`},
	{0.25, "gone: its server dies as well", `
kill -9 $(ublk-remap status gone --json | jq .server_pid)`},
}

var showMends = []fault{
	{0.55, "slow: as fast as before", `
dmsetup suspend slow
dmsetup load slow --table "0 $(blockdev --getsz /dev/ubdd) linear /dev/ubdd 0"
dmsetup --noudevsync resume slow`},
	{0.57, "flapping: the cable is mended, and an operator resumes it", `
dmsetup suspend flapping
dmsetup load flapping --table "0 $(blockdev --getsz /dev/ubde) linear /dev/ubde 0"
dmsetup --noudevsync resume flapping
ublk-remap resume flapping || ublk-remap status flapping`},
	{0.59, "gone: the disk is plugged in again, and its server started", `
for scan in /sys/class/scsi_host/host*/scan; do echo '- - -' >$scan; done
udevadm settle
ls -l $(cat /run/gone)
ublk-remap start gone`},
	{0.61, "bad: what does not read is written anew", `
systemctl stop load-bad
dd if=/dev/zero of=/dev/disk/by-id/ublk-remap-bad bs=1M oflag=direct conv=notrunc || true
ublk-remap status bad`},
}

// showAlerts are the alerts that must fire. lasts: it is not over when the show is, because it
// lasts an hour or a day; its fast copy is.
var showAlerts = []struct {
	alert string
	lasts bool
}{
	{"UblkRemapNewBadBlocks bad", true},
	{"FastNewBadBlocks bad", false},
	{"FastBlocksPending bad", false},
	{"FastSpareGoesDown bad", false},
	{"FastSlow slow", false},
	{"UblkRemapTripped flapping", false},
	{"FastTripped flapping", false},
	{"UblkRemapFlushFailed flapping", true},
	{"FastFlushFailed flapping", false},
	{"UblkRemapDiskMissing gone", false},
	{"FastDiskMissing gone", false},
	{"UblkRemapServerDead gone", false},
	{"FastServerDead gone", false},
	{"UblkRemapTransportErrors gone", true},
	{"FastTransportErrors gone", false},
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
	length := time.Duration(minutes * float64(time.Minute))
	between := max(2*time.Second, (length / 150).Truncate(time.Second))
	s := newShow(t, length, between)
	s.play(showFaults)
	s.await("all that are expected fire", func(f firing) bool { return f.fired })
	s.h.Run(`
for name in bad slow flapping gone; do
	if ublk-remap check $name; then echo "$name fails, and is called well"; exit 1; fi
done`)
	s.lookAt("failing")
	s.play(showMends)
	s.await("all that are expected are over", func(f firing) bool { return f.resolved })
	time.Sleep(time.Until(s.began.Add(length)))
	s.lookAt("mended")
	s.table()
	text := s.h.Run(`
cat /var/lib/ublk-remap/mail; ublk-remap alerts list; ublk-remap status --brief`)
	s.keep("mail.txt", text)
	s.keep("scrapes.json", s.h.Run(`
curl -sG localhost:9090/api/v1/query_range --data-urlencode 'query=scrape_duration_seconds' \
	-d start=`+s.start+` -d end=$(date +%s) -d step=5`))
	for _, sentence := range []string{"The server of gone is dead", "Remapping of flapping is"} {
		if !strings.Contains(strings.ReplaceAll(text, "=\n", ""), sentence) {
			t.Errorf("no mail says %q", sentence)
		}
	}
}

// show is the show that runs.
type show struct {
	t           *testing.T
	h           *system.Host
	out, shared string
	page        string // its URL
	began       time.Time
	start       string // the same by the host's clock, in seconds since 1970
	length      time.Duration
}

func newShow(t *testing.T, length, between time.Duration) *show {
	t.Helper()
	const file = "../../contrib/prometheus/ublk-remap.rules.yml"
	rules, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fast := filepath.Join(t.TempDir(), "fast.yml")
	if err := os.WriteFile(fast, []byte(fasten(string(rules), length/5, 5*between)),
		0o644); err != nil {
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
		Packages: []string{"prometheus", "curl", "fio", "jq"},
		Payload: map[string]string{"ublk-remap.deb": deb(t, "0.0.1"), "fast.yml": fast,
			"rules.yml": file}})
	h.Boot()
	h.Run(fmt.Sprintf("between=%d\n", int(between.Seconds())) + prepareShow)
	s := &show{t: t, h: h, out: out, shared: t.TempDir(), length: length}
	s.page = forward(t, h, s.shared, 9947)
	h.Eventually(2*time.Minute, `
curl -s 'localhost:9090/api/v1/query?query=ublk_remap_monitor_success' | grep '"1"'`)
	s.began, s.start = time.Now(), strings.TrimSpace(h.Run("date +%s"))
	return s
}

// play has things happen.
func (s *show) play(faults []fault) {
	s.t.Helper()
	for _, f := range faults {
		time.Sleep(time.Until(s.began.Add(time.Duration(f.at * float64(s.length)))))
		said, code := s.h.Try(f.script)
		s.t.Logf("%v: %s (exit code %d)\n%s", time.Since(s.began).Round(time.Second), f.what,
			code, said)
	}
}

// showLimit is how long an alert may take to fire or to be over. Only what never comes reaches it.
const showLimit = 5 * time.Minute

// await waits until something is true of all alerts that are expected and do not last, but no
// longer than showLimit and the length of the show together. table reports what is missing.
func (s *show) await(what string, is func(firing) bool) {
	s.t.Helper()
	for end := time.Now().Add(showLimit + s.length); ; time.Sleep(2 * time.Second) {
		seen, missing := firings(s.t, s.h, s.start, s.shared), ""
		for _, want := range showAlerts {
			if !is(seen[want.alert]) && (!want.lasts || !seen[want.alert].fired) {
				missing += ", " + want.alert
			}
		}
		if missing == "" {
			s.t.Logf("%v: %s", time.Since(s.began).Round(time.Second), what)
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("it does not happen that %s: not%s", what, missing[1:])
			return
		}
	}
}

// table prints when alerts fired and were over, in seconds from the start, and fails if one that is
// expected did not.
func (s *show) table() {
	s.t.Helper()
	seen := firings(s.t, s.h, s.start, s.shared)
	text := fmt.Sprintf("%-34s %-10s %8s %9s\n", "alert", "expected", "fired", "resolved")
	row := func(name, expected string) {
		fired, resolved := "never", "-"
		if f := seen[name]; f.fired {
			fired, resolved = fmt.Sprintf("%d s", f.from), "not yet"
			if f.resolved {
				resolved = fmt.Sprintf("%d s", f.to)
			}
		}
		text += fmt.Sprintf("%-34s %-10s %8s %9s\n", name, expected, fired, resolved)
	}
	for _, want := range showAlerts {
		f := seen[want.alert]
		if !f.fired || !want.lasts && !f.resolved {
			s.t.Errorf("%s: %+v", want.alert, f)
		}
		expected := "yes"
		if want.lasts {
			expected = "it lasts"
		}
		row(want.alert, expected)
		delete(seen, want.alert)
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		row(name, "no")
		if strings.Contains(name, "MonitorFails") || strings.Contains(name, "AlertsFail") {
			s.t.Errorf("%s: %+v", name, seen[name])
		}
	}
	s.t.Log("\n" + text)
	s.keep("alerts.txt", text)
}

// keep writes a file for people to look at.
func (s *show) keep(name, text string) {
	if err := os.WriteFile(filepath.Join(s.out, name), []byte(text), 0o644); err != nil {
		s.t.Error(err)
	}
}

// firing is when an alert fired, in seconds from the start.
type firing struct {
	from, to        int64
	fired, resolved bool
}

// firings asks Prometheus which alerts have fired since start, by name and set.
func firings(t *testing.T, h *system.Host, start, shared string) map[string]firing {
	t.Helper()
	said := h.Run(fmt.Sprintf(`now=$(date +%%s)
curl -sG localhost:9090/api/v1/query_range --data-urlencode \
	'query=ALERTS{alertstate="firing"}' -d start=%s -d end=$now -d step=2 \
	--output /shared/9947/alerts.json && sync /shared/9947/alerts.json && echo $now`, start))
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
	if err := json.Unmarshal(b, &answer); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	now, _ := strconv.ParseInt(strings.TrimSpace(said), 10, 64)
	first, _ := strconv.ParseInt(start, 10, 64)
	now -= first
	all := map[string]firing{}
	for _, r := range answer.Data.Result {
		name := r.Metric.Alertname + " " + cmp.Or(r.Metric.Set, r.Metric.Way, r.Metric.Instance)
		for _, v := range r.Values {
			at := int64(v[0].(float64)) - first
			f, ever := all[name]
			if !ever {
				f.from, f.fired = at, true
			}
			f.to = max(f.to, at)
			all[name] = f
		}
	}
	for name, f := range all {
		f.resolved = f.to < now-4
		all[name] = f
	}
	return all
}

// lookAt has a browser look at the page of all devices, in light, in dark and on a phone, and at
// that of each device, and keeps screenshots. Debian's Prometheus has no pages to look at: its
// alerts are in the table.
func (s *show) lookAt(when string) {
	t := s.t
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Log("no screenshots: there is no chromium here")
		return
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser),
		chromedp.UserDataDir(t.TempDir()), chromedp.DisableGPU, chromedp.NoSandbox,
		chromedp.Flag("hide-scrollbars", true), chromedp.WSURLReadTimeout(showLimit))
	alloc, end := chromedp.NewExecAllocator(t.Context(), opts...)
	defer end()
	ctx, end := chromedp.NewContext(alloc, chromedp.WithErrorf(func(string, ...any) {}))
	defer end()
	ctx, end = context.WithTimeout(ctx, 2*showLimit)
	defer end()
	shot := func(name, url, ready string, width int64, scheme string) {
		if err := screenshot(ctx, url, ready, width, scheme, func(png []byte) {
			s.keep(when+"-"+name+".png", string(png))
		}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	const list, surface = `document.querySelectorAll("tbody[id]").length >= 4`,
		`document.querySelector("figure.surface")?.dataset.state === "ready"`
	shot("all", s.page, list, 1280, "light")
	shot("all-dark", s.page, list, 1280, "dark")
	shot("all-phone", s.page, list, 390, "light")
	for _, name := range []string{"bad", "slow", "flapping", "gone"} {
		ready := surface
		if name == "gone" && when == "failing" {
			ready = `document.body.innerText.includes("failed")` // no server, no map
		}
		shot(name, s.page+"/device/"+name, ready, 1280, "light")
	}
}

// screenshot loads a page, waits until an expression of JavaScript is true of it, and takes a
// picture of it. An answer that is an error is one here as well.
func screenshot(ctx context.Context, url, ready string, width int64, scheme string,
	keep func([]byte)) error {
	answer, err := http.Get(url)
	if err != nil {
		return err
	}
	if answer.Body.Close(); answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		return err
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 900),
		chromedp.Navigate(url)); err != nil {
		return err
	}
	for is, end := false, time.Now().Add(showLimit); !is; time.Sleep(200 * time.Millisecond) {
		is, err = chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+ready+")"))
		if err == nil && !is && time.Now().After(end) {
			err = errors.New("this never came true: " + ready)
			is = true
		}
		if err != nil {
			break
		}
	}
	png, shotErr := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if shotErr == nil {
		keep(png)
	}
	return errors.Join(err, shotErr)
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
cat >/run/measure <<'END'
fio --name=x --filename=/dev/disk/by-id/ublk-remap-data --direct=1 --ioengine=io_uring --rw=$1 \
	--bs=4k --iodepth=$2 --runtime=3 --time_based --output-format=json |
	jq '.jobs[0] | .read.iops + .write.iops | floor'
END`)
	t.Log("CPU time of the monitor, start and 30 scrapes: " + h.Run(`
cpu() { awk '/^usage_usec/ { print $2 / 1000 }' \
	/sys/fs/cgroup/system.slice/ublk-remap-monitor.service/cpu.stat; }
systemctl start ublk-remap-monitor
curl -s -o /dev/null localhost:9947/metrics
echo "$(cpu) ms"
curl -s -o /dev/null --rate 60/m 'localhost:9947/metrics?[1-30]'
echo "$(cpu) ms"
systemctl stop ublk-remap-monitor`))
	for _, cell := range []string{"randread 32", "randwrite 32", "randread 1", "randwrite 1"} {
		var without, with []int
		for range 7 {
			for _, on := range []bool{false, true} {
				script := "sh /run/measure " + cell
				if on {
					// The scraper is one process that stays, as Prometheus is.
					script = "systemctl start ublk-remap-monitor\n" +
						"systemd-run -q --unit scrape curl -s -o /dev/null --rate 60/m " +
						"'localhost:9947/metrics?[1-1000]'\nsleep 1\n" + script +
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
