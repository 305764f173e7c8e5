package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// hostileNames are names that a disk from elsewhere can have: commands for a terminal, other
// directions of writing, ends of lines and cells, and lengths.
var hostileNames = []string{"plain", "a\u202egnp\u009b31m", "\x1b[2J\x1b]0;owned\x07",
	"two\nlines\r", "tab\tcell", `quote",=cmd`, strings.Repeat("w", 200), strings.Repeat("漢", 100),
	"שלום", "\xff\xfe"}

func hostileStatus(name string) *control.Status {
	return &control.Status{Device: "/dev/ublkb12", ID: 12, Name: name, UUID: name,
		State: control.StateDegraded, Reason: "no spare unit of " + name + " is free",
		Action: "ublk-remap health 12", Backing: "/dev/" + name, BlockSize: 512,
		SizeBlocks: 1 << 30, Spare: control.Spare{Total: 200, Used: 150, Free: 50}, Pending: 12345,
		Lost: 7, ServerPID: 42, Breaker: control.Breaker{State: "closed"},
		Scrub: control.Scrub{State: "idle"}}
}

// harmless checks that nothing in a text commands a terminal.
func harmless(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%s: %q", what, text)
			return
		}
	}
}

// TestStatusOfHostileNames: names from outside are shown harmlessly, in every form, and no line of
// the form for people is wider than 80 columns.
func TestStatusOfHostileNames(t *testing.T) {
	for _, name := range hostileNames {
		var text, brief, table bytes.Buffer
		s := hostileStatus(name)
		s.Reason = ""
		s.Metadata.Mirrors = []control.Mirror{{Location: s.Backing + "@131072", State: "good"}}
		if err := (&app{stdio: stdio{out: &text}}).printStatus(s); err != nil {
			t.Fatal(err)
		}
		harmless(t, "status", text.String())
		for _, line := range strings.Split(text.String(), "\n") {
			// A command stays in one line.
			if readable.Columns(line) > 80 && !strings.HasPrefix(line, "uuid") &&
				!strings.HasPrefix(strings.TrimSpace(line), "ublk-remap ") {
				t.Errorf("%d columns: %s", readable.Columns(line), line)
			}
		}
		a := &app{stdio: stdio{out: &brief}}
		if err := a.printBrief([]*control.Status{s}); err != nil {
			t.Fatal(err)
		}
		harmless(t, "brief", brief.String())
		if strings.Count(brief.String(), "\n") != 1 {
			t.Errorf("not one line: %q", brief.String())
		}
		a = &app{stdio: stdio{out: &table}}
		if err := a.printCSV([]*control.Status{s}, time.Now(), true); err != nil {
			t.Fatal(err)
		}
		harmless(t, "csv", strings.ReplaceAll(table.String(), "\r\n", "\n"))
	}
}

// TestBrief: one line for each device, with its columns in line.
func TestBrief(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdio: stdio{out: &out}}
	dead := hostileStatus("archive")
	dead.Device, dead.State, dead.ServerPID = "/dev/ublkb3", control.StateFailed, 0
	dead.Reason, dead.Action = "its server is dead", "ublk-remap start archive"
	live := hostileStatus("b")
	live.State, live.Reason, live.Action = control.StateLive, "", ""
	live.Pending, live.Lost = 0, 0
	if err := a.printBrief([]*control.Status{dead, live}); err != nil {
		t.Fatal(err)
	}
	want := `/dev/ublkb3    archive  failed       its server is dead; ublk-remap start archive
/dev/ublkb12   b        live         0 pending, 0 lost, 25% spare free
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// TestCSV: the header is a contract, and what is read back is what was there.
func TestCSV(t *testing.T) {
	const header = "time,device,id,name,uuid,state,reason,action,waiting_since,backing," +
		"block_size,size_blocks,spare_total,spare_used,spare_free,remaps,pending,lost," +
		"errors_read,errors_write,errors_flush,errors_transport,heals_writes,heals_reads," +
		"heals_failed,io_reads,io_writes,io_flushes,io_discards,io_read_bytes,io_write_bytes," +
		"scrub_state,scrub_position,scrub_total,scrub_rate,scrub_last_finished,breaker," +
		"server_pid,missing,alerts"
	var out bytes.Buffer
	a := &app{stdio: stdio{out: &out}}
	at := time.Unix(1e9, 0)
	s := hostileStatus(`quote",=cmd`)
	s.Scrub.LastFinished = &at
	if err := a.printCSV([]*control.Status{s}, at, true); err != nil {
		t.Fatal(err)
	}
	if err := a.printCSV([]*control.Status{s}, at, false); err != nil {
		t.Fatal(err)
	}
	if line, _, _ := strings.Cut(out.String(), "\r\n"); line != header {
		t.Errorf("header %s", line)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	got := map[string]string{}
	for i, name := range rows[0] {
		got[name] = rows[1][i]
	}
	for name, want := range map[string]string{"time": "2001-09-09T01:46:40Z",
		"name": `quote",=cmd`, "state": "degraded", "pending": "12345", "waiting_since": "",
		"scrub_last_finished": "2001-09-09T01:46:40Z", "server_pid": "42"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if !slices.Equal(rows[1], rows[2]) {
		t.Errorf("%q and %q", rows[1], rows[2])
	}
}

// terminal returns the two ends of a terminal of that many columns.
func terminal(t *testing.T, columns uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		t.Cleanup(func() { slave.Close() })
		err = unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ,
			&unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// readTerminal reads what was written to a terminal, up to a text.
func readTerminal(t *testing.T, master *os.File, last string) string {
	t.Helper()
	var all []byte
	for b := make([]byte, 4096); !bytes.HasSuffix(all, []byte(last)); {
		n, err := master.Read(b)
		if err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		all = append(all, b[:n]...)
	}
	return strings.ReplaceAll(string(all), "\r\n", "\n")
}

// TestColours: the state is in colour on a terminal, and nowhere else; NO_COLOR and a terminal that
// can do nothing are respected. Colours change nothing else.
func TestColours(t *testing.T) {
	for _, tc := range []struct {
		term, none string
		want       bool
	}{{"xterm", "", true}, {"xterm", "1", false}, {"dumb", "", false}, {"", "", false}} {
		t.Setenv("CLICOLOR", "")
		t.Setenv("CLICOLOR_FORCE", "")
		t.Setenv("TERM", tc.term)
		t.Setenv("NO_COLOR", tc.none)
		master, slave := terminal(t, 80)
		if got := (&app{stdio: stdio{out: slave}}).colours(); got != tc.want {
			t.Errorf("TERM=%s NO_COLOR=%s: %v", tc.term, tc.none, got)
		}
		if err := (&app{stdio: stdio{out: slave}}).printStatus(hostileStatus("disk")); err != nil {
			t.Fatal(err)
		}
		shown := readTerminal(t, master, "copying\r\n")
		if strings.Contains(shown, "\x1b[33mdegraded\x1b[0m") != tc.want {
			t.Errorf("TERM=%s NO_COLOR=%s: %q", tc.term, tc.none, shown)
		}
		for _, sgr := range []string{plain, good, warning, alarming, "0"} {
			shown = strings.ReplaceAll(shown, "\x1b["+sgr+"m", "")
		}
		var without bytes.Buffer
		if err := (&app{stdio: stdio{out: &without}}).printStatus(
			hostileStatus("disk")); err != nil {
			t.Fatal(err)
		}
		if shown != without.String() {
			t.Errorf("got\n%swant\n%s", shown, without.String())
		}
	}
	if (&app{stdio: stdio{out: &bytes.Buffer{}}}).colours() {
		t.Error("in colour where there is no terminal")
	}
}

// TestColoursAsked: CLICOLOR_FORCE asks for colours also where there is no terminal, CLICOLOR=0 for
// none, and NO_COLOR has the last word.
func TestColoursAsked(t *testing.T) {
	t.Setenv("TERM", "xterm")
	_, slave := terminal(t, 80)
	for _, tc := range []struct {
		force, cli, none string
		terminal, want   bool
	}{
		{"1", "", "", false, true}, {"0", "", "", false, false}, {"", "1", "", false, false},
		{"1", "", "1", false, false}, {"1", "", "1", true, false}, {"0", "", "", true, true},
		{"", "0", "", true, false}, {"1", "0", "", true, true}, {"", "1", "", true, true},
	} {
		t.Setenv("CLICOLOR_FORCE", tc.force)
		t.Setenv("CLICOLOR", tc.cli)
		t.Setenv("NO_COLOR", tc.none)
		a := &app{stdio: stdio{out: &bytes.Buffer{}}}
		if tc.terminal {
			a.out = slave
		}
		if got := a.colours(); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestFitted(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"漢字", 4, "漢字"}, {"漢字", 3, "漢…"}, {"ab", 1, "…"}} {
		if got := readable.Fit(tc.text, tc.n); got != tc.want {
			t.Errorf("%s in %d: %s, want %s", tc.text, tc.n, got, tc.want)
		}
	}
}
