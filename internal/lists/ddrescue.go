package lists

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// The statuses of an area in a map of GNU ddrescue (manual, "Mapfile structure"): not tried, failed
// and not trimmed, failed and not scraped (until version 1.18 not split), bad sectors, finished.
const ddrescueStatuses = "?*/-+"

// DdrescueFailed are the statuses of the areas that failed to read.
const DdrescueFailed = "*/-"

// ddrescue reads a map. The line that counts first says where ddrescue was: a position, a status
// and since version 1.23 a pass. All others are areas: position, size, status. Areas follow each
// other without a gap, and the last one may end anywhere, because ddrescue may not have known the
// size of the disk. Numbers are as in C: decimal, 0x hexadecimal, 0 octal.
func (r *reader) ddrescue(in io.Reader) error {
	wanted := r.Status
	if wanted == "" {
		wanted = DdrescueFailed
	}
	if strings.Trim(wanted, ddrescueStatuses) != "" {
		return fmt.Errorf("%w: status %.10q; want some of %s", ErrList, wanted, ddrescueStatuses)
	}
	r.BlockFlag = ""
	seen := false
	next := int64(-1) // where the next area begins; -1: there is none before it
	err := r.lines(in, func(text string) error {
		f := strings.Fields(text)
		if !seen {
			seen = true
			return ddrescuePosition(f, text)
		}
		at, size, status, ok := ddrescueArea(f)
		switch {
		case !ok:
			return fmt.Errorf("%w: %.60q; want an area of a ddrescue map: POSITION SIZE STATUS",
				ErrList, text)
		case next >= 0 && at != next:
			return fmt.Errorf("%w: this area begins at %#x, and the one before ends at %#x: the "+
				"map is damaged or cut", ErrList, at, next)
		}
		next = at + size
		if !strings.Contains(wanted, status) {
			return nil
		}
		return r.bytes(at, next, func() string {
			return fmt.Sprintf("the area %#x+%#x", at, size)
		})
	})
	if err == nil && !seen {
		err = fmt.Errorf("%w: it is empty; a ddrescue map has a line of its position at least",
			ErrList)
	}
	return err
}

// ddrescuePosition checks the first line.
func ddrescuePosition(f []string, text string) error {
	ok := len(f) == 2 || len(f) == 3
	if ok {
		_, ok = cNumber(f[0])
		ok = ok && len(f[1]) == 1 && strings.Contains("?*/-FG+", f[1])
	}
	if ok && len(f) == 3 {
		_, ok = cNumber(f[2])
	}
	if !ok {
		return fmt.Errorf("%w: %.60q; want the first line of a map: POSITION STATUS [PASS]",
			ErrList, text)
	}
	return nil
}

// ddrescueArea parses the line of an area. It does not reach beyond 2^63.
func ddrescueArea(f []string) (at, size int64, status string, ok bool) {
	if len(f) != 3 || len(f[2]) != 1 || !strings.Contains(ddrescueStatuses, f[2]) {
		return 0, 0, "", false
	}
	at, ok = cNumber(f[0])
	size, also := cNumber(f[1])
	return at, size, f[2], ok && also && size > 0 && at <= math.MaxInt64-size
}

// cNumber reads a number as strtoll does with base 0.
func cNumber(text string) (int64, bool) {
	if strings.ContainsAny(text, "_oO") || len(text) > 1 && (text[1] == 'b' || text[1] == 'B') {
		return 0, false // ParseInt knows more forms than strtoll
	}
	n, err := strconv.ParseInt(text, 0, 64)
	return n, err == nil && n >= 0
}
