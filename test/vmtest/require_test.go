package vmtest

import (
	"errors"
	"testing"
)

func TestParseRelease(t *testing.T) {
	for release, want := range map[string]Version{
		"6.12.117+deb12-cloud-amd64": V(6, 12),
		"7.3.4+deb13-cloud-amd64":    V(7, 3),
		"6.18.44":                    V(6, 18),
		"7.0-rc1":                    V(7, 0),
	} {
		got, err := parseRelease(release)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", release, got, err, want)
		}
	}
	if v, err := parseRelease("linux"); err == nil {
		t.Errorf("linux: got %v, want an error", v)
	}
}

func TestVersionOrder(t *testing.T) {
	order := []Version{V(5, 19), V(6, 0), V(6, 9), V(6, 12), V(7, 0), V(7, 3)}
	for i, a := range order {
		for j, b := range order {
			if a.Less(b) != (i < j) {
				t.Errorf("%v.Less(%v) = %v", a, b, a.Less(b))
			}
		}
	}
}

func TestJudge(t *testing.T) {
	yes := func() (bool, error) { return true, nil }
	no := func() (bool, error) { return false, nil }
	broken := func() (bool, error) { return false, errors.New("no answer") }
	for _, tc := range []struct {
		name    string
		running Version
		has     func() (bool, error)
		want    verdict
	}{
		{"new kernel, by version", V(6, 15), nil, run},
		{"old kernel, by version", V(6, 14), nil, skip},
		{"new kernel with it", V(7, 3), yes, run},
		{"old kernel without it", V(6, 12), no, skip},
		{"backported", V(6, 12), yes, run},
		{"new kernel without it", V(7, 3), no, fail},
		{"exactly the first, without it", V(6, 15), no, fail},
		{"unknown on a new kernel", V(7, 3), broken, fail},
		{"unknown on an old kernel", V(6, 12), broken, fail},
	} {
		f := Feature{Name: "it", Min: V(6, 15), Has: tc.has}
		if got, msg := f.judge(tc.running); got != tc.want {
			t.Errorf("%s: verdict %d (%s), want %d", tc.name, got, msg, tc.want)
		}
	}
}

func TestErrorTable(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  []Extent
		want string
	}{
		{"none", nil, "0 1000 linear /dev/x 0\n"},
		{"middle", []Extent{{100, 8}}, "0 100 linear /dev/x 0\n100 8 error\n108 892 linear " +
			"/dev/x 108\n"},
		{"both ends", []Extent{{0, 1}, {999, 1}},
			"0 1 error\n1 998 linear /dev/x 1\n999 1 error\n"},
		{"all", []Extent{{0, 1000}}, "0 1000 error\n"},
		{"unordered and overlapping", []Extent{{200, 20}, {100, 8}, {210, 5}, {215, 10}},
			"0 100 linear /dev/x 0\n100 8 error\n108 92 linear /dev/x 108\n200 20 error\n220 5 " +
				"error\n225 775 linear /dev/x 225\n"},
	} {
		got, err := errorTable("/dev/x", 1000, tc.bad)
		if err != nil || got != tc.want {
			t.Errorf("%s: %v, got\n%swant\n%s", tc.name, err, got, tc.want)
		}
	}
	for _, e := range []Extent{{-1, 1}, {0, 0}, {999, 2}} {
		if table, err := errorTable("/dev/x", 1000, []Extent{e}); err == nil {
			t.Errorf("%v: no error, but\n%s", e, table)
		}
	}
}
