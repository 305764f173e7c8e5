package doctor

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"ublkremap/internal/control"
)

// TestMonitorsSocketStays: a server's socket is left over without it, and the monitor's is not.
func TestMonitorsSocketStays(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(control.DirEnv, dir)
	for _, path := range []string{control.AlertsPath(), filepath.Join(dir, "gone.sock")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := leftFiles(context.Background(), nil, nil)
	if len(found) != 1 || found[0].name != "gone" {
		t.Errorf("%+v", found)
	}
}
