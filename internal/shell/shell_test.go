package shell

import (
	"os/exec"
	"strings"
	"testing"
	"unicode"
)

var words = []string{
	"old", "/dev/sdb", "", "two words", "it's", "a;reboot", "$(reboot)", "`id`", "*", "~", "a\\b",
	"ü", "rtl\u202egnp", "c1\u009b31m",
	"tab\there", "bad\xff", "nl\nx", "-x", "#no", "a&b", "!x", "{a,b}", "'", "\x1b'\\",
}

// TestQuoteIsOneWord: bash reads the quoted text as one word.
func TestQuoteIsOneWord(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	for _, w := range words {
		out, err := exec.Command(bash, "-c", `f() { printf '%s|%s' "$#" "$1"; }; f `+
			Quote(w)).Output()
		if err != nil || string(out) != "1|"+w {
			t.Errorf("%q: %s: %q, %v", w, Quote(w), out, err)
		}
	}
}

func TestQuoteIsPrintable(t *testing.T) {
	for _, w := range words {
		if strings.ContainsFunc(Quote(w), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", w, Quote(w))
		}
	}
	if got := Command("start", "/dev/sdb", "a b"); got != "ublk-remap start /dev/sdb 'a b'" {
		t.Error(got)
	}
}
