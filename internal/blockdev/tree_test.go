package blockdev

import (
	"strings"
	"testing"
)

func TestExtents(t *testing.T) {
	part, open := extent{1 << 20, 3 << 20}, extent{5 << 20, 0}
	for _, c := range []struct {
		e, in, want extent
	}{
		{wholeExtent, wholeExtent, wholeExtent},
		{wholeExtent, part, part},
		{wholeExtent, open, open},
		{extent{4096, 8192}, part, extent{1<<20 + 4096, 1<<20 + 8192}},
		{extent{4096, 0}, part, extent{1<<20 + 4096, 3 << 20}},
		{extent{4096, 1 << 30}, part, extent{1<<20 + 4096, 3 << 20}}, // it was larger once
		{extent{4096, 8192}, open, extent{5<<20 + 4096, 5<<20 + 8192}},
	} {
		if got := c.e.within(c.in); got != c.want {
			t.Errorf("%v within %v: %v, want %v", c.e, c.in, got, c.want)
		}
	}
	for _, c := range []struct {
		a, b extent
		want bool
	}{
		{wholeExtent, wholeExtent, true},
		{wholeExtent, part, true},
		{part, extent{3 << 20, 4 << 20}, false},
		{part, extent{3<<20 - 1, 4 << 20}, true},
		{part, extent{3 << 20, 0}, false},
		{part, open, false},
		{open, extent{9 << 20, 10 << 20}, true},
	} {
		if c.a.meets(c.b) != c.want || c.b.meets(c.a) != c.want {
			t.Errorf("%v meets %v: want %v", c.a, c.b, c.want)
		}
	}
}

func TestUserSays(t *testing.T) {
	for want, u := range map[string]User{
		"mounted on /srv": {Kind: UserMount, Device: "/dev/sdb", Path: "/srv"},
		"mounted on /srv in the mount namespace of process 7 (sh)": {Kind: UserMount, Path: "/srv",
			PID: 7, Command: "sh"},
		"of its partitions, /dev/sdb1 is the disk of /dev/loop2": {Kind: UserLoop,
			Device: "/dev/sdb1", Path: "/dev/loop2", part: true},
		"below /dev/loop2, which is swap space /dev/loop2": {Kind: UserSwap,
			Device: "/dev/loop2", Path: "/dev/loop2", above: true},
		"the file of /dev/loop2": {Kind: UserLoop,
			Path: "/dev/loop2", file: true},
		"held by /dev/dm-1": {Kind: UserHolder,
			Path: "/dev/dm-1"},
		"open in process 9 (qemu)": {Kind: UserProcess, PID: 9,
			Command: "qemu", Writes: true},
	} {
		if got := u.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var many []User
	for range 3 {
		many = append(many, User{Kind: UserMount, Path: "/a"})
	}
	for _, p := range strings.Split("bcdefg", "") {
		many = append(many, User{Kind: UserMount, Path: "/" + p})
	}
	if got := Says(many); strings.Count(got, "/a") != 1 || !strings.HasSuffix(got, ", and 3 more") {
		t.Error(got)
	}
}
