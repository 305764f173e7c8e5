package mounts

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	got := parse("22 1 0:9 / /dev rw shared:2 - devtmpfs udev rw\n" +
		"36 22 98:0 /mnt /mnt/a\\040b\\134c rw,noatime master:1 - ext3 /dev/root " +
		"rw,errors=continue\n" +
		"nonsense\n40 1 0:3 - tmpfs\n")
	want := []mount{{"/dev", "devtmpfs"}, {`/mnt/a b\c`, "ext3"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestKeep: what lies in a place that is kept needs no place of its own.
func TestKeep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir, want string
	}{{"/run/x", "/run"}, {"/x", "/x"}, {"/a/b/c", "/a/b"}} {
		if got := holder(c.dir); got != c.want {
			t.Errorf("%s is held by %s, want %s", c.dir, got, c.want)
		}
	}
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/run", "/run", true}, {"/run/x", "/run", true}, {"/runx", "/run", false},
		{"/", "/run", false}} {
		if got := within(c.path, c.dir); got != c.want {
			t.Errorf("%s within %s: %v", c.path, c.dir, got)
		}
	}
}

// TestInherited: a word that somebody else left in the environment is not believed.
func TestInherited(t *testing.T) {
	t.Setenv(ownEnv, "mnt:[1]")
	if own, err := inherited(); own || err != nil {
		t.Errorf("own %v, %v", own, err)
	}
}
