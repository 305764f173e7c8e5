package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/bench/jobs"
	"ublkremap/bench/peer"
)

func mustParse(t *testing.T, args ...string) *options {
	t.Helper()
	o, err := parse(args, io.Discard)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return o
}

func TestParse(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	o := mustParse(t)
	if o.kernel != "uml" || o.rounds != 5 || !slices.Equal(o.queues, []int{1}) ||
		!slices.Equal(o.remaps, []int64{0, 1000, 100_000, 1_000_000}) || o.ublksrv != "" ||
		o.seed == 0 {
		t.Errorf("%+v", o)
	}
	if !strings.HasPrefix(o.out, "bench/results/") || !strings.HasSuffix(o.out, "-uml") {
		t.Errorf("results go to %s", o.out)
	}
	o = mustParse(t, "-kernel", "7.3", "-rounds", "3", "-only", "io/", "-seed", "9", "-runtime",
		"500ms", "-queues", "2, 8")
	if !slices.Equal(o.queues, []int{2, 8}) || o.seed != 9 || o.runtime != 500*time.Millisecond ||
		!strings.HasPrefix(o.out, "bin/results/") {
		t.Errorf("%+v", o)
	}
	if o = mustParse(t, "-kernel", "6.12"); !slices.Equal(o.queues, []int{1, 4}) {
		t.Errorf("queues %v", o.queues)
	}
	if o = mustParse(t, "-only", "a b|c'd"); o.command != `bin/bench -only 'a b|c'\''d'` {
		t.Errorf("command %s", o.command)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"x"}, {"-nonsense"}, {"-only", "("}, {"-peers", "["}, {"-rounds", "0"},
		{"-runtime", "1ms"}, {"-runtime", "x"}, {"-size", "0"},
		{"-queues", "0"}, {"-queues", "1,65"}, {"-queues", "a"}, {"-remaps", "-1"},
		{"-remaps", "1,,2"}, {"-depth", "0"}, {"-depth", "2000"},
		{"-block", "1024"}, {"-heals", "0"}, {"-heals", "401"}, {"-size", "1"}, {"-idle", "0s"},
		{"-variant", "x"}, {"-variant", "=--poll"}, {"-variant", "a b=--poll"},
		{"-variant", "x=poll"}, {"-variant", "x=prog:--poll"}, {"-variant", "x=--a; y"},
	} {
		if o, err := parse(args, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%q: %+v, %v", args, o, err)
		}
	}
	var usage bytes.Buffer
	if _, err := parse([]string{"-help"}, &usage); !errors.Is(err, flag.ErrHelp) ||
		!strings.Contains(usage.String(), "-variant") {
		t.Errorf("-help: %v, %q", err, usage.String())
	}
}

func TestVariants(t *testing.T) {
	o := mustParse(t, "-program", "/bin/r", "-variant", "poll=--poll=50us --x; old=/o/ublk-remap:",
		"-variant", "z=/p/ublk-remap:--zero-copy=on --y", "-peers", "^(poll|old|z)")
	want := []peer.Peer{
		{Name: "poll", Program: "/bin/r", Flags: []string{"--poll=50us", "--x"}},
		{Name: "poll-z", Program: "/bin/r", Flags: []string{"--poll=50us", "--x"}, Zero: true},
		{Name: "old", Program: "/o/ublk-remap", Flags: []string{}},
		{Name: "old-z", Program: "/o/ublk-remap", Flags: []string{}, Zero: true},
		{Name: "z", Program: "/p/ublk-remap", Flags: []string{"--y"}, Zero: true},
	}
	for i := range want {
		want[i].Kind, want[i].Variant = peer.Remap, true
	}
	if got := o.makePeers(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestPeers(t *testing.T) {
	var names []string
	o := mustParse(t, "-remaps", "0,1000,1000000,5")
	for _, p := range append(o.makePeers(), o.makeTables()...) {
		names = append(names, p.Name)
		if (p.Table != nil) != (strings.HasPrefix(p.Name, "remaps-") || strings.HasPrefix(p.Name,
			"every-")) || p.Zero != strings.HasSuffix(p.Name, "-z") {
			t.Errorf("%+v", p)
		}
	}
	want := "raw loop linear ublksrv ublksrv-z remap remap-z remaps-0 remaps-1k remaps-1M " +
		"remaps-5 every-100th remaps-0-z remaps-1k-z remaps-1M-z remaps-5-z every-100th-z"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Requests of the jobs that should miss hit no remap. Those of the others may hit one.
func TestMeets(t *testing.T) {
	o := mustParse(t)
	all, err := jobs.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range o.makeTables() {
		for _, j := range all {
			align := j.BlockSize
			if j.Miss {
				align *= 2
			}
			hits := 0
			for i := range p.Table.Remaps {
				if at := (p.Table.First + i*p.Table.Every) * 4096; at%align == 0 && at < o.mib<<20 {
					hits++
				}
			}
			if meets(j, p) && j.Miss != (hits == 0) && p.Table.Remaps > 0 {
				t.Errorf("%s on %s: %d places that it asks for are remapped", j.Name, p.Name, hits)
			}
			if got, want := int64(hits), o.mib*256/100; p.Table.Every == 100 && !j.Miss &&
				j.BlockSize == 4096 && got != want {
				t.Errorf("%s: %d places are remapped, want %d", p.Name, got, want)
			}
		}
	}
}

func TestList(t *testing.T) {
	var b strings.Builder
	if err := list(mustParse(t, "-queues", "1,4"), &b); err != nil {
		t.Fatal(err)
	}
	for _, once := range []string{"io/read-128k-d8/q1", "sync/fsync-4k-d1/q1",
		"io/randread-4k-d32/q4", "remaps/miss-randwrite-4k-d32/q4", "remaps/randread-4k-d32/q1",
		"idle/device/q4", "heal/write/q1"} {
		if n := strings.Count(b.String(), once+"\n"); n != 1 {
			t.Errorf("%s is listed %d times", once, n)
		}
	}
	for _, never := range []string{"io/read-128k-d8/q4", "heal/write/q4", "io/miss", "io/fsync",
		"remaps/randread-4k-d1/"} {
		if strings.Contains(b.String(), never) {
			t.Errorf("%s is listed", never)
		}
	}
}

// The guest gets the same options as the host, with paths of the guest.
func TestGuestArgs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ublk", "ublk.loop"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-kernel", "6.12", "-only", "io/", "-peers", "a|b", "-rounds", "3", "-runtime",
		"700ms", "-size", "64", "-queues", "1,2", "-depth", "64", "-block", "4096",
		"-seed", "5", "-remaps", "0,7", "-idle", "3s", "-heals", "20", "-peer",
		filepath.Join(dir, "ublk"), "-program", "/h/ublk-remap",
		"-variant", "old=/o/x:--poll=1us --b", "-variant", "p=--c", "-commit", "abc", "-vmflags",
		"-v -keep"}
	host := mustParse(t, args...)
	vm := host.vmexecArgs("/h/bench", "/r/results.json")
	at := slices.Index(vm, "/h/bench")
	if at < 0 {
		t.Fatalf("%q", vm)
	}
	for _, want := range []string{"-kernel 6.12", "-parallel -collect " +
		"/root/results.json:/r/results.json", "-file /h/ublk-remap:/usr/local/bin/ublk-remap",
		"-file " + dir + "/ublk:/usr/local/bin/ublk",
		"-file " + dir + "/ublk.loop:/usr/local/bin/ublk.loop", "-file /o/x:/opt/old/ublk-remap",
		"-v -keep"} {
		if !strings.Contains(strings.Join(vm[:at], " "), want) {
			t.Errorf("no %q in %q", want, vm[:at])
		}
	}
	guest := mustParse(t, vm[at+1:]...)
	if guest.kernel != kernelHost || guest.json != guestJSON ||
		guest.program != "/usr/local/bin/ublk-remap" || guest.ublksrv != "/usr/local/bin/ublk" {
		t.Errorf("%+v", guest)
	}
	wantVariants := []variant{{"old", "/opt/old/ublk-remap", []string{"--poll=1us", "--b"}},
		{"p", "", []string{"--c"}}}
	if !reflect.DeepEqual(guest.variants, wantVariants) {
		t.Errorf("variants %+v", guest.variants)
	}
	if guest.only.String() != "io/" || guest.peers.String() != "a|b" || guest.rounds != 3 ||
		guest.runtime != host.runtime || guest.mib != 64 ||
		!slices.Equal(guest.queues, host.queues) || guest.depth != 64 || guest.block != 4096 ||
		guest.seed != 5 || !slices.Equal(guest.remaps, host.remaps) ||
		guest.idle != host.idle || guest.heals != 20 || guest.commit != "abc" ||
		guest.command != host.command {
		t.Errorf("guest %+v\nhost %+v", guest, host)
	}
}

func TestCPUModel(t *testing.T) {
	for text, want := range map[string]string{
		"processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: B\n": "A CPU @ 2 GHz",
		"": "unknown CPU",
	} {
		if got := cpuModel(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A run without root, or without its programs, says so and leaves nothing.
func TestRunRefuses(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	err := run(t.Context(), []string{"-kernel", "uml", "-program", "/nonexistent/ublk-remap",
		"-out", out}, io.Discard, io.Discard)
	if !errors.Is(err, errUsage) {
		t.Errorf("without a program: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", out, err)
	}
	if err := run(t.Context(), []string{"-report", out}, io.Discard, io.Discard); !errors.Is(err,
		os.ErrNotExist) {
		t.Errorf("a report of nothing: %v", err)
	}
}
