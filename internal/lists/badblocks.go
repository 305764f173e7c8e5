package lists

import (
	"cmp"
	"fmt"
	"io"
	"strings"
)

// badblocks reads a list of numbers. A line is a block number, START COUNT, START+COUNT, or
// START-END with END included. Numbers are decimal, or hexadecimal with 0x.
func (r *reader) badblocks(in io.Reader) error {
	r.Block = cmp.Or(r.Block, 1024)
	return r.lines(in, func(text string) error {
		first, count, pair, ok := parseBlocks(text)
		if large := tooLarge(text); !ok && large != "" {
			return fmt.Errorf("%w: block %.40s lies past the end of any device", ErrList, large)
		}
		if !ok {
			return fmt.Errorf("%w: %.40q; want a number, or START COUNT, START+COUNT or START-END",
				ErrList, text)
		}
		r.list.Pairs = r.list.Pairs || pair
		return r.blocks(first, count)
	})
}

// parseBlocks parses a line. A leading + comes from null_blk, which adds bad blocks in that form.
func parseBlocks(text string) (first, count int64, pair, ok bool) {
	text = strings.TrimPrefix(text, "+")
	at := strings.IndexAny(text, " \t+-")
	if at < 0 {
		first, ok = number(text)
		return first, 1, false, ok
	}
	rest := strings.TrimSpace(text[at:])
	sign := byte(' ')
	if rest[0] == '+' || rest[0] == '-' {
		sign, rest = rest[0], strings.TrimSpace(rest[1:])
	}
	first, ok = number(text[:at])
	second, also := number(rest)
	if sign == '-' {
		second -= first - 1
	}
	return first, second, sign != '+', ok && also && second > 0
}

// tooLarge returns a decimal number of the line that is larger than any block's, or "".
func tooLarge(text string) string {
	for _, f := range strings.FieldsFunc(text, func(r rune) bool {
		return strings.ContainsRune(" \t+-", r)
	}) {
		if _, ok := number(f); !ok && strings.Trim(f, "0123456789") == "" {
			return f
		}
	}
	return ""
}
