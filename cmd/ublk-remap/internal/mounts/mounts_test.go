package mounts

import "testing"

// TestKeep: a path inside a directory that stays needs no entry of its own.
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

// TestInherited: a value that another program left in the environment is ignored.
func TestInherited(t *testing.T) {
	t.Setenv(ownEnv, "mnt:[1]")
	if own, err := inherited(); own || err != nil {
		t.Errorf("own %v, %v", own, err)
	}
}
