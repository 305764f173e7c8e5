package page

import (
	"math"
	"time"

	"ublkremap/internal/readable"
)

// maxText is how many characters of a name, a path or a reason are shown.
const maxText = 400

// clean makes a text of unknown origin safe to read, and cuts it if it is too long.
func clean(s string) string { return readable.Fit(readable.Text(s), maxText) }

func sizeText(n uint64) string { return readable.Bytes(int64(min(n, math.MaxInt64))) }

func numText(n uint64) string { return readable.Number(n) }

func counted(n uint64, one, many string) string { return readable.Count(n, one, many) }

func clock(t time.Time) string { return t.Local().Format("15:04:05") }

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
