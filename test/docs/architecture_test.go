package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the top of the repository.
const root = "../.."

// quoted is a name or a path between backquotes.
var quoted = regexp.MustCompile("`([^`]+)`")

// TestWhereToFindIt: each file in the table of ARCHITECTURE.md exists, and each name after it is
// declared in that file.
func TestWhereToFindIt(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Where to find it\n")
	if !found {
		t.Fatal("ARCHITECTURE.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	files, names := 0, 0
	declared := map[string]map[string]bool{}
	for _, line := range strings.Split(section, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue // not a row of three cells
		}
		file := ""
		for _, m := range quoted.FindAllStringSubmatch(cells[3], -1) {
			name := m[1]
			if strings.HasSuffix(name, ".go") {
				files++
				if file = name; declared[file] == nil {
					declared[file] = declarations(t, file)
				}
				continue
			}
			names++
			switch {
			case file == "":
				t.Errorf("%s: %q comes before any file", strings.TrimSpace(cells[2]), name)
			case !declared[file][name]:
				t.Errorf("%s: %s does not declare %q", strings.TrimSpace(cells[2]), file, name)
			}
		}
	}
	if files < 50 || names < 100 {
		t.Errorf("the table has %d files and %d names: it is not read as it is written", files,
			names)
	}
}

// declarations returns the names that a file declares at its top level, methods among them.
func declarations(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil,
		parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return map[string]bool{}
	}
	names := map[string]bool{}
	for _, d := range parsed.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[d.Name.Name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					names[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names[n.Name] = true
					}
				}
			}
		}
	}
	return names
}
