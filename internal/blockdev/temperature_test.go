package blockdev

import (
	"os"
	"path/filepath"
	"testing"
)

// TestThermometer reads the files of both kinds of disks, and what they may hold.
func TestThermometer(t *testing.T) {
	class := t.TempDir()
	for name, dir := range map[string]string{"sda": "hwmon/hwmon3", "nvme0n1": "hwmon1"} {
		at := filepath.Join(class, name, "device", dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]struct {
			celsius int8
			known   bool
		}{"41000\n": {41, true}, "-5500\n": {-5, true}, "": {}, "hot\n": {}, "999000\n": {}} {
			if err := os.WriteFile(filepath.Join(at, "temp1_input"), []byte(text),
				0o644); err != nil {
				t.Fatal(err)
			}
			got, known := thermometerOf(class, []string{"loop0", name}).Read()
			if got != want.celsius || known != want.known {
				t.Errorf("%s: %q is %d, %v", name, text, got, known)
			}
		}
	}
	if _, known := thermometerOf(class, []string{"loop0"}).Read(); known {
		t.Error("a disk without a thermometer has a temperature")
	}
	if _, known := FindThermometer(filepath.Join(class, "nothing")).Read(); known {
		t.Error("what is not there has a temperature")
	}
}
