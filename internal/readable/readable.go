// Package readable writes what people read: names from outside that are safe to show, sizes,
// numbers and times. All that shows something to a person uses it, so that the same thing looks the
// same in a table, in a message, in the terminal's screen and on the page.
//
// It writes nothing that a program reads: JSON and metrics have bytes and seconds.
package readable

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// Text returns a text from outside, such as a name or a path, in a form that can be shown: on one
// line, and without anything that a terminal would read as a command. It escapes all characters
// that are not printable, in the form that Go uses: control characters, escape sequences, marks
// that change the direction of writing, and bytes that are not UTF-8. A text that is safe already
// is returned as it is. HTML needs its own escapes besides.
func Text(s string) string {
	if strings.IndexFunc(s, odd) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if odd(r) {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func odd(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// Lines is Text for a text of several lines.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = Text(lines[i])
	}
	return strings.Join(lines, "\n")
}

// Bytes is a size, such as 1.5 GiB. A size below 0 is shown as 0 B.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// Rate is a rate of bytes a second, such as 120 MiB/s. One that is no number, or below 0, is shown
// as 0 B/s.
func Rate(perSecond float64) string {
	if !(perSecond > 0) {
		perSecond = 0
	}
	return Bytes(int64(min(perSecond, math.MaxInt64/2))) + "/s"
}

// Number is a number with commas between the thousands.
func Number(n uint64) string { return humanize.Comma(int64(min(n, math.MaxInt64))) }

// Count is a number with what is counted: 1 block, 2,048 blocks.
func Count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Number(n) + " " + many
}

// Columns returns how many columns of a terminal a text takes that is safe to show. It counts the
// wide characters of East Asia as two.
func Columns(s string) (n int) {
	for _, r := range s {
		n += columns(r)
	}
	return n
}

func columns(r rune) int {
	if r < wide[0][0] {
		return 1
	}
	for _, w := range wide {
		if w[0] <= r && r <= w[1] {
			return 2
		}
	}
	return 1
}

// wide are the characters that take two columns, roughly (Unicode TR 11).
var wide = [][2]rune{{0x1100, 0x115f}, {0x2e80, 0xa4cf}, {0xac00, 0xd7a3}, {0xf900, 0xfaff},
	{0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1faff}, {0x20000, 0x3fffd}}

// Cut returns the beginning of a text that takes at most so many columns.
func Cut(s string, most int) string {
	n := 0
	for i, r := range s {
		if n += columns(r); n > most {
			return s[:i]
		}
	}
	return s
}

// Fit cuts a text to so many columns. A text that was cut ends with an ellipsis.
func Fit(s string, most int) string {
	switch {
	case Columns(s) <= most:
		return s
	case most <= 0:
		return ""
	}
	return Cut(s, most-1) + "…"
}
