package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
)

func TestExamine(t *testing.T) {
	r := Examine(context.Background())
	if r.Kernel == "" || len(r.Checks) == 0 || r.Features == nil {
		t.Fatalf("%+v", r)
	}
	for _, c := range r.Checks {
		if c.Name == "" || c.What == "" || !slices.Contains([]State{OK, Warning, Failure},
			c.State) {
			t.Errorf("%+v", c)
		}
		if c.State == Failure && c.Do == "" {
			t.Errorf("no advice: %+v", c)
		}
	}
	_, err := os.Stat(ublk.ControlPath)
	if there := err == nil; there && os.Geteuid() == 0 != (len(r.Features) > 0) {
		t.Errorf("driver there, but features %v", r.Features)
	} else if !there && len(r.Features) > 0 {
		t.Errorf("no driver, but features %v", r.Features)
	}
	var fields map[string]any
	b, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(b, &fields)
	}
	if err != nil || fields["kernel"] == nil || fields["checks"] == nil ||
		fields["features"] == nil {
		t.Errorf("%s, %v", b, err)
	}
}

func TestOK(t *testing.T) {
	r := &Report{}
	r.add("a", OK, "", "x")
	r.add("b", Warning, "y", "x %d", 1)
	if !r.OK() || r.Checks[1].What != "x 1" {
		t.Errorf("%+v", r)
	}
	r.add("c", Failure, "z", "x")
	if r.OK() {
		t.Error("a failure is fine")
	}
}

func TestDenied(t *testing.T) {
	if do := denied(unix.EIO); !strings.Contains(do, "dmesg") {
		t.Error(do)
	}
	want := "--device-cgroup-rule"
	if os.Geteuid() != 0 {
		want = "as root"
	}
	if do := denied(fmt.Errorf("open: %w", unix.EPERM)); !strings.Contains(do, want) {
		t.Error(do)
	}
}

// Each missing capability is reported. The one that devices need is a failure.
func TestCapabilities(t *testing.T) {
	have, err := effective()
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{}
	r.capabilities()
	missing := 0
	for _, c := range rights {
		if have&(1<<c.bit) == 0 {
			missing++
		}
	}
	if len(r.Checks) != missing || r.OK() != (have&(1<<unix.CAP_SYS_ADMIN) != 0) {
		t.Errorf("capabilities %x: %+v", have, r.Checks)
	}
}
