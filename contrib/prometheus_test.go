package contrib

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	wantMetrics(t, rules)
}

// wantMetrics checks that the monitor has each metric that a text names.
func wantMetrics(t *testing.T, text string) {
	t.Helper()
	metrics := read(t, "../internal/monitor/testdata/metrics.prom")
	part := regexp.MustCompile(`_(bucket|sum|count)$`) // of a histogram
	names := regexp.MustCompile(`ublk_remap_\w+`).FindAllString(text, -1)
	if len(names) < 10 {
		t.Errorf("only %q are named", names)
	}
	for _, m := range names {
		whole := part.ReplaceAllString(m, "")
		if !strings.Contains(metrics, "# TYPE "+m+" ") &&
			!strings.Contains(metrics, "# TYPE "+whole+" histogram\n") {
			t.Errorf("there is no metric %s", m)
		}
	}
}

// TestDashboard: the dashboard is what Grafana imports, each panel asks for metrics that there are,
// by expressions that Prometheus understands, and no two panels are in one place.
func TestDashboard(t *testing.T) {
	text := read(t, "prometheus/ublk-remap.dashboard.json")
	var d struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Title, Type string
			Description string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil || d.UID == "" {
		t.Fatalf("%v", err)
	}
	wantMetrics(t, text)
	// As Grafana fills them in.
	fill := strings.NewReplacer("$__rate_interval", "5m", "$set", ".*", "$instance", ".*")
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if taken[at] != "" || at[0] >= 24 {
					t.Fatalf("%q is where %q is, or beyond the edge", p.Title, taken[at])
				}
				taken[at] = p.Title
			}
		}
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("%q shows nothing, or does not say what", p.Title)
		}
		for _, target := range p.Targets {
			fmt.Fprintf(&rules, "      - {record: 'p:%d%s', expr: %q}\n", p.ID, target.RefID,
				fill.Replace(target.Expr))
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}
