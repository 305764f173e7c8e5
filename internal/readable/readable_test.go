package readable

import (
	"math"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"plain %s ü „x“ 東京":      "plain %s ü „x“ 東京",
		"a\x1b[2Jb":              `a\x1b[2Jb`,
		"tab\tbell\a":            `tab\tbell\a`,
		"bad \xff\xfe":           `bad \xff\xfe`,
		"c1 \u009b31m":           `c1 \u009b31m`,
		"rtl \u202egnp.exe":      `rtl \u202egnp.exe`,
		"line\u2028sep":          `line\u2028sep`,
		"nul\x00":                `nul\x00`,
		"a\nb\r\nc":              `a\nb\r\nc`,
		"zero\u200bwidth\ufeff.": `zero\u200bwidth\ufeff.`,
		"replaced \ufffd":        `replaced �`,
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := Lines("a\x1b\nb\x00"); got != "a\\x1b\nb\\x00" {
		t.Errorf("%q", got)
	}
}

// FuzzText: nothing that comes out is a command for a terminal, and it is stable.
func FuzzText(f *testing.F) {
	f.Add("a\x1b]0;x\a\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return !unicode.IsPrint(r)
		}) {
			t.Errorf("%q: %q", s, got)
		}
		for _, most := range []int{-1, 0, 1, 7, 40} {
			if fit := Fit(got, most); Columns(fit) > max(most, 0) || !utf8.ValidString(fit) {
				t.Errorf("%q in %d columns: %q", got, most, fit)
			}
		}
	})
}

func TestSizes(t *testing.T) {
	for got, want := range map[string]string{
		Bytes(0):                       "0 B",
		Bytes(-5):                      "0 B",
		Bytes(1536 << 20):              "1.5 GiB",
		Bytes(math.MaxInt64):           "8.0 EiB",
		Rate(120 << 20):                "120 MiB/s",
		Rate(math.NaN()):               "0 B/s",
		Rate(-1):                       "0 B/s",
		Count(1, "block", "blocks"):    "1 block",
		Count(0, "block", "blocks"):    "0 blocks",
		Count(2048, "block", "blocks"): "2,048 blocks",
		Number(1234567):                "1,234,567",
		Number(math.MaxUint64):         "9,223,372,036,854,775,807",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Rate(math.Inf(1)); !strings.HasSuffix(got, " EiB/s") {
		t.Error(got)
	}
}

func TestColumns(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "é…": 2, "東京": 4, "a🚀": 3} {
		if got := Columns(s); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
	for _, c := range []struct {
		in   string
		most int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"東京都", 4, "東…"}, {"東京都", 5, "東京…"},
		{"abc", 0, ""}, {"abc", -1, ""}, {"abc", 1, "…"}} {
		if got := Fit(c.in, c.most); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.in, c.most, got, c.want)
		}
	}
}
