package main

import (
	"strings"
	"testing"
)

func TestEmptyLists(t *testing.T) {
	useRuntimeDir(t)
	for _, args := range [][]string{{"list", "--json"}, {"status", "--json"}} {
		if r := mustRun(t, 0, args...); strings.TrimSpace(r.out) != "[]" {
			t.Errorf("%v: %q", args, r.out)
		}
	}
	if r := mustRun(t, 0, "list"); r.out != "" {
		t.Error(r.out)
	}
}
