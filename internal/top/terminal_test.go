package top

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeEnv makes the test binary show the fake host on its terminal, until it is ended. Its value is
// how many devices there are.
const (
	fakeEnv  = "UBLK_REMAP_TEST_TOP"
	panicEnv = "UBLK_REMAP_TEST_TOP_PANIC" // not empty: the second device's map makes it panic
	shellEnv = "UBLK_REMAP_TEST_TOP_SHELL" // not empty: a shell waits for its end
)

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(fakeEnv)); err == nil {
		src := &fake{hangs: make(chan struct{}), count: n, panics: os.Getenv(panicEnv) != ""}
		if err := run(context.Background(), src, os.Stdin, os.Stdout,
			func() time.Time { return epoch }); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ended in good order")
		if os.Getenv(shellEnv) == "" {
			time.Sleep(time.Hour) // tmux shows what is left on the screen
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// terminal is a tmux server of its own, with one window.
type terminal struct {
	t       *testing.T
	socket  string
	command string // that shows the screen
}

// patience is only for a test that fails.
const patience = 2 * time.Minute

func newTerminal(t *testing.T, width, height int, env ...string) *terminal {
	t.Helper()
	return start(t, width, height, false, env...)
}

// start begins with a shell, or with the screen itself.
func start(t *testing.T, width, height int, shell bool, env ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("needs tmux (Debian: tmux)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, socket: t.TempDir() + "/tmux"}
	x.command = "env -u NO_COLOR -u TMUX " + strings.Join(env, " ") + " " + fakeEnv + "=4 '" +
		self + "'"
	command := "exec " + x.command
	if shell {
		command = "exec env PS1='shell> ' sh -i"
	}
	x.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(width), "-y",
		fmt.Sprint(height), command)
	t.Cleanup(func() { x.tmux("kill-server") })
	return x
}

func (x *terminal) tmux(args ...string) string {
	x.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-u", "-S", x.socket}, args...)...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LANG=C.UTF-8", "TMUX=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// until waits until the screen is as it should be, and returns it without colours.
func (x *terminal) until(what string, ok func(screen string) bool) string {
	x.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		lines := strings.Split(x.tmux("capture-pane", "-p"), "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " ")
		}
		screen := strings.Join(lines, "\n")
		switch {
		case ok(screen):
			return screen
		case time.Now().After(deadline):
			x.t.Fatalf("%s: the screen is\n%s", what, screen)
		}
	}
}

func has(texts ...string) func(string) bool {
	return func(screen string) bool {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	}
}

// place returns where a text is on the screen, in a line from a number on. It counts from 1.
func place(screen, text string, from int) (column, line int) {
	for i, l := range strings.Split(screen, "\n") {
		if at := strings.Index(l, text); i >= from && at >= 0 {
			return at + 1, i + 1
		}
	}
	return 0, 0
}

// TestTerminal: on a real terminal the screen is that of the model. Keys, the mouse and another
// size of the window change it, although the server of one device hangs. At the end the terminal
// is as before.
func TestTerminal(t *testing.T) {
	x := newTerminal(t, 80, 24)
	x.until("begin", has("> archive", "stuck", "retried-read", "metadata mirror"))
	x.tmux("send-keys", "Tab")
	x.until("tab", has("> media", "degraded: 8 blocks", "R█"))
	x.tmux("send-keys", "m", "n", "n")
	screen := x.until("map in letters", has("692 in the spare region", "------", ".S.", "+++++",
		"what happened", "retried-read"))
	compare(t, "tmux-media", screen)
	x.tmux("send-keys", "+", "+")
	x.until("zoom", has("692 in the spare region", "(2.2 MiB at "))
	x.tmux("send-keys", "0")
	x.until("whole disk", has("(8.9 MiB at "))
	// SGR mouse: motion without a button to the lost blocks; the wheel.
	column, line := place(screen, "X", 10)
	x.tmux("send-keys", "-l", fmt.Sprintf("\x1b[<35;%d;%dM", column, line))
	x.until("motion", has("8 lost"))
	x.tmux("send-keys", "-l", fmt.Sprintf("\x1b[<64;%d;%dM", column, line))
	x.until("wheel", has("8 lost", "(4.4 MiB at "))
	x.tmux("send-keys", "-l", "\x1b[<0;4;3M")
	x.until("click", has("> archive"))
	x.tmux("resize-window", "-x", "120", "-y", "40")
	x.until("larger", func(s string) bool {
		return has("> archive", "q quit")(s) && len(strings.Split(s, "\n")) >= 40 &&
			strings.Contains(s, strings.Repeat("-", 100))
	})
	x.tmux("resize-window", "-x", "25", "-y", "8")
	x.until("small", func(s string) bool {
		return has("4 devices", "> archive", "next: nothing")(s) && !has("DEVICE")(s)
	})
	x.tmux("resize-window", "-x", "1", "-y", "1")
	x.until("tiny", func(s string) bool { return len(s) < 10 })
	x.tmux("resize-window", "-x", "80", "-y", "24")
	x.until("as before", has("> archive", "q quit"))
	x.tmux("send-keys", "?")
	x.until("help", has("It only reads."))
	x.tmux("send-keys", "q")
	x.until("end", func(s string) bool {
		return has("ended in good order")(s) && !strings.Contains(s, "archive")
	})
}

// TestTerminalColours: in colour there are colours, and with NO_COLOR there is none, and letters
// take their place. Ctrl-C ends it.
func TestTerminalColours(t *testing.T) {
	for _, none := range []bool{false, true} {
		env := []string{"TERM=xterm-256color"}
		if none {
			env = append(env, "NO_COLOR=yes")
		}
		x := newTerminal(t, 80, 24, env...)
		x.until("begin", has("> archive", "retried-read"))
		x.tmux("send-keys", "Tab")
		x.until("map", has("> media", "R"+map[bool]string{false: "█", true: "-"}[none]))
		shown := x.tmux("capture-pane", "-p", "-e")
		colours := strings.Contains(shown, "38;5;") || strings.Contains(shown, "48;5;")
		if colours == none {
			t.Errorf("NO_COLOR %v: %q", none, shown)
		}
		if letters := strings.Contains(shown, "-----"); letters != none {
			t.Errorf("NO_COLOR %v: %s", none, shown)
		}
		x.tmux("send-keys", "C-c")
		x.until("end", has("ended in good order"))
	}
}

// TestTerminalGivenBack: a terminal is as before after a signal and after a panic, and while Ctrl-Z
// stops the program; fg shows the screen again.
func TestTerminalGivenBack(t *testing.T) {
	x := start(t, 80, 24, true)
	asked := 0
	// settings are the terminal's, as the shell sees them.
	settings := func() string {
		t.Helper()
		asked++
		mark := fmt.Sprintf("asked %d", asked)
		x.tmux("send-keys", "-l", fmt.Sprintf("clear; stty -g; echo asked' '%d\n", asked))
		shown := x.until("settings", func(s string) bool { return has(mark)(s) })
		return strings.Split(shown, mark)[0]
	}
	before := settings()
	restored := func(how string) {
		t.Helper()
		if after := settings(); after != before {
			t.Errorf("%s: the terminal has changed:\n%s\nwas\n%s", how, after, before)
		}
		flags := x.tmux("display-message", "-p",
			"#{alternate_on}#{mouse_any_flag}#{mouse_all_flag}#{cursor_flag}#{keypad_flag}")
		if strings.TrimSpace(flags) != "00010" {
			t.Errorf("%s: alternate screen, mouse, cursor, keypad: %s", how, flags)
		}
	}
	pid := func() string {
		return strings.TrimSpace(x.tmux("display-message", "-p", "#{pane_pid}"))
	}
	begin := func(env string) {
		t.Helper()
		x.tmux("send-keys", "-l", env+" "+shellEnv+"=1 "+x.command+"; echo code' '$?\n")
		x.until("begin", has("> archive", "retried-read"))
	}
	for _, sig := range []string{"TERM", "INT", "HUP", "QUIT"} {
		begin("")
		if out, err := exec.Command("pkill", "-"+sig, "-P", pid()).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		x.until(sig, has("ended in good order\ncode 0\nshell>"))
		restored(sig)
	}
	begin(panicEnv + "=1")
	x.tmux("send-keys", "Tab")
	x.until("panic", has("code 1\nshell>"))
	restored("panic")
	begin("")
	x.tmux("send-keys", "C-z")
	x.until("stopped", func(s string) bool { return has("shell>")(s) && !has("> archive")(s) })
	restored("ctrl-z")
	x.tmux("send-keys", "-l", "fg\n")
	x.until("fg", has("> archive", "retried-read"))
	x.tmux("send-keys", "Tab")
	x.until("keys after fg", has("> media"))
	x.tmux("send-keys", "q")
	x.until("end", has("ended in good order\nshell>"))
	restored("q")
}

// TestTerminalASCII: in a locale without UTF-8 and on the console of Linux the map is drawn with
// letters.
func TestTerminalASCII(t *testing.T) {
	for _, env := range []string{"LC_ALL=C", "LC_ALL=de_DE.ISO-8859-1", "TERM=linux"} {
		x := newTerminal(t, 80, 24, env)
		x.until("begin", has("> archive", "retried-read"))
		x.tmux("send-keys", "Tab")
		screen := x.until("map", has("> media", "DDDDDDD++++++++", "R-"))
		if strings.ContainsAny(screen, lines) {
			t.Errorf("%s: %s", env, screen)
		}
	}
}
