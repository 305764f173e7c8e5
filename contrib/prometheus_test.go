package contrib

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// promtool runs a command of promtool in the directory of the rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.Command("../scripts/promtool").Output()
	if err != nil {
		t.Fatalf("scripts/promtool: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(path)), args...)
	cmd.Dir = "prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestRules: the alerts are what Prometheus understands, and fire when they should.
func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint-fatal", "ublk-remap.rules.yml")
	promtool(t, "test", "rules", "ublk-remap.test.yml")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRunbooks: each alert has a section that says what to do, and uses metrics that there are.
func TestRunbooks(t *testing.T) {
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(
		read(t, "../docs/OPERATIONS.md"), -1) {
		anchors[strings.ToLower(strings.ReplaceAll(m[1], " ", "-"))] = true
	}
	rules := read(t, "prometheus/ublk-remap.rules.yml")
	books := regexp.MustCompile(`runbook_url: docs/OPERATIONS.md#(\S+)`).
		FindAllStringSubmatch(rules, -1)
	if n := strings.Count(rules, "- alert:"); n != len(books) || n == 0 {
		t.Errorf("%d alerts, %d runbooks", n, len(books))
	}
	for _, m := range books {
		if !anchors[m[1]] {
			t.Errorf("docs/OPERATIONS.md has no section #%s", m[1])
		}
	}
	metrics := read(t, "../internal/monitor/testdata/metrics.prom")
	for _, m := range regexp.MustCompile(`ublk_remap_\w+`).FindAllString(rules, -1) {
		if !strings.Contains(metrics, "# TYPE "+m+" ") {
			t.Errorf("there is no metric %s", m)
		}
	}
}
