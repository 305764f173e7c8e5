// Package shell writes the commands that messages suggest. They can be copied into a shell as they
// are, whatever the names and paths in them are.
package shell

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Command is a command line of ublk-remap with these arguments.
func Command(args ...string) string {
	var b strings.Builder
	b.WriteString("ublk-remap")
	for _, a := range args {
		b.WriteByte(' ')
		b.WriteString(Quote(a))
	}
	return b.String()
}

// Quote returns s as one word of a POSIX shell, without quotes where possible. Characters that are
// not printable are written as bash and zsh read them ($'…'), because a name must not be able to
// send commands to a terminal.
func Quote(s string) string {
	switch {
	case s == "":
		return "''"
	case strings.ContainsFunc(s, odd):
		return escaped(s)
	case !strings.ContainsFunc(s, special):
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func odd(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// special reports whether a shell may take a character for more than itself. Letters of any
// script are plain, as are the signs that paths are made of.
func special(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/._-+:@%,=", r)
}

func escaped(s string) string {
	var b strings.Builder
	b.WriteString("$'")
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case odd(r):
			for i := range n {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			}
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	b.WriteByte('\'')
	return b.String()
}
