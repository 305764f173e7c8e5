package blockdev

import "testing"

func TestParseActivity(t *testing.T) {
	for text, want := range map[string]Activity{
		"": {},
		"     100        0     2000      10       50        0      400       5        3      100 " +
			"     200\n": {150, 3},
		"     100        0     2000      10       50        0      400       5        0      100 " +
			"     200 7 0 0 0\n": {157, 0},
		"     100        0     2000      10       50        0      400       5        1      100 " +
			"     200        7        0  0 0        9   1\n": {166, 1},
		"1 0 0 0 2 0 0 0 18446744073709551615": {3, 1<<64 - 1},
	} {
		if got := parseActivity([]byte(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	line := []byte("     100        0     2000      10       50        0      400       5        " +
		"1      100      200        7        0  0 0        9   1\n")
	if n := testing.AllocsPerRun(100, func() { parseActivity(line) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
