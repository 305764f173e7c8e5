package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// describe describes the test's own binary, which has the modules that it uses in it.
func describe(t *testing.T) string {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1790000000")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The second binary is the same one by another name.
	second := filepath.Join(dir, "second")
	if err := os.Link(self, second); err != nil {
		text, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(second, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := run([]string{self, second}, "1.2.3-rc.1", "../../LICENSE", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// schemas are those that CycloneDX's own library is tested with.
func schemas(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}",
		"github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "schema")
}

// The document is valid by CycloneDX's schema, and has what the binary says.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(describe(t), "ublk-remap.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	validate(t, text)
	var b cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).
		Decode(&b); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"std@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, m.Path+"@"+m.Version)
	}
	slices.Sort(want)
	var got []string
	for _, c := range *b.Components {
		got = append(got, c.Name+"@"+c.Version)
	}
	slices.Sort(got)
	if len(want) < 3 || !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if parts := b.Metadata.Component.Components; parts == nil || len(*parts) != 1 ||
		(*parts)[0].Name != "second" || len(*b.Dependencies) != 2 ||
		len(*(*b.Dependencies)[1].Dependencies) != len(want) {
		t.Errorf("the second binary: %+v, %+v", parts, b.Dependencies)
	}
	if b.Metadata.Component.Version != "1.2.3-rc.1" ||
		b.Metadata.Timestamp != "2026-09-21T14:13:20Z" {
		t.Errorf("%+v", b.Metadata)
	}
}

func validate(t *testing.T, text []byte) {
	t.Helper()
	var named struct {
		Schema string `json:"$schema"`
	}
	if err := json.Unmarshal(text, &named); err != nil {
		t.Fatal(err)
	}
	dir := schemas(t)
	c := jsonschema.NewCompiler()
	for name, file := range map[string]string{
		filepath.Base(named.Schema): filepath.Base(named.Schema),
		"spdx.schema.json":          "spdx.schema.json",
		"jsf-0.82.schema.json":      "jsf-0.82.schemax.json",
	} {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("http://cyclonedx.org/schema/"+name, value); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile(named.Schema)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		t.Error(err)
	}
	// The schema must also refuse a wrong document.
	value.(map[string]any)["components"].([]any)[0].(map[string]any)["type"] = "nonsense"
	if err := schema.Validate(value); err == nil {
		t.Error("the schema takes nonsense")
	}
}

func TestHolders(t *testing.T) {
	for text, want := range map[string][]string{
		"Copyright (c) 2026 The authors":                        {"2026 The authors"},
		"> Copyright © 2011 Russ Ross":                          {"2011 Russ Ross"},
		"   Copyright 2013-2023 Someone":                        {"2013-2023 Someone"},
		"Copyright (c) Yasuhiro <y@example.org>":                {"Yasuhiro <y@example.org>"},
		"Copyright [yyyy] [name of copyright owner]":            nil,
		"copyright notice that is included in":                  nil,
		"Copyright (c) {{ year }}":                              nil,
		"// Copyright 2009 The Go Authors.\n// more\n":          {"2009 The Go Authors."},
		"Copyright 2001 One\nCopyright 2002 Two\nNo such line.": {"2001 One", "2002 Two"},
	} {
		if got := holders(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A part without a known licence is an error, so that it is not described wrongly.
func TestNoLicence(t *testing.T) {
	dir := t.TempDir()
	p := &part{path: "example.org/x", version: "v1.0.0"}
	if err := p.readLicences(dir); err == nil {
		t.Error("an empty directory")
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("Be nice.\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.readLicences(dir); err == nil {
		t.Errorf("a licence of its own: %q", p.spdx)
	}
}
