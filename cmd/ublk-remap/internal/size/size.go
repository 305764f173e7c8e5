// Package size reads the sizes that people write on the command line: a number of bytes, with KiB,
// MiB, GiB or TiB behind it, or a percentage. It computes exactly. A fraction of a byte is refused,
// not rounded.
package size

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// ErrSize is returned for text that is not a size.
var ErrSize = errors.New("not a size")

// Size is an absolute number of bytes or a share of something.
type Size struct {
	bytes   int64
	percent *big.Rat // nil: absolute
	text    string
}

var suffixes = []struct {
	name  string
	shift uint
}{
	{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}, {"K", 10}, {"M", 20}, {"G", 30}, {"T", 40},
	{"B", 0},
}

// Parse reads a size: "1%", "0.5%", "512MiB", "1.5GiB", "4096". Suffixes are
// powers of 1024; K, M, G and T are short for KiB to TiB. The error is ErrSize.
func Parse(text string) (Size, error) {
	s := Size{text: text}
	t := strings.TrimSpace(text)
	if number, ok := strings.CutSuffix(t, "%"); ok {
		r, err := decimal(strings.TrimSpace(number))
		if err != nil {
			return s, fmt.Errorf("%q: %w", text, err)
		}
		if r.Cmp(big.NewRat(100, 1)) > 0 {
			return s, fmt.Errorf("%q: %w: more than 100%%", text, ErrSize)
		}
		s.percent = r
		return s, nil
	}
	shift := uint(0)
	for _, x := range suffixes {
		if number, ok := strings.CutSuffix(t, x.name); ok {
			t, shift = strings.TrimSpace(number), x.shift
			break
		}
	}
	r, err := decimal(t)
	if err != nil {
		return s, fmt.Errorf("%q: %w: want a number of bytes, KiB, MiB, GiB, TiB or %%", text, err)
	}
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), shift)))
	if !r.IsInt() {
		return s, fmt.Errorf("%q: %w: not a whole number of bytes", text, ErrSize)
	}
	if !r.Num().IsInt64() {
		return s, fmt.Errorf("%q: %w: too large", text, ErrSize)
	}
	s.bytes = r.Num().Int64()
	return s, nil
}

// decimal reads digits with at most one point. big.Rat alone would also accept signs, exponents and
// fractions.
func decimal(t string) (*big.Rat, error) {
	digits := strings.Replace(t, ".", "", 1)
	if digits == "" || len(t) > 40 || strings.Trim(digits, "0123456789") != "" {
		return nil, ErrSize
	}
	r, ok := new(big.Rat).SetString(t)
	if !ok {
		return nil, ErrSize
	}
	return r, nil
}

// Of returns the size in bytes, rounded down to a multiple of unit, which must be positive. A
// percentage is taken of total.
func (s Size) Of(total, unit int64) int64 {
	n := s.bytes
	if s.percent != nil {
		r := new(big.Rat).Mul(s.percent, big.NewRat(total, 100))
		n = new(big.Int).Quo(r.Num(), r.Denom()).Int64()
	}
	return n / unit * unit
}

// Exact reports whether the size is a number of bytes, and returns that number.
func (s Size) Exact() (int64, bool) { return s.bytes, s.percent == nil }

// String returns what was parsed.
func (s Size) String() string { return s.text }
