package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	var v map[string]any
	if err := json.Unmarshal([]byte(mustRun(t, 0, "version", "--json").out), &v); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"version", "go", "os", "arch", "format"} {
		if v[name] == nil {
			t.Errorf("no %s in %v", name, v)
		}
	}
	if r := mustRun(t, 0, "version"); !strings.HasPrefix(r.out, "ublk-remap ") {
		t.Error(r.out)
	}
}
