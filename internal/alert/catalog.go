package alert

import (
	"fmt"
	"slices"
	"strings"
)

// Catalog is the file by which journalctl -x explains the MESSAGE_ID of each kind, see
// https://systemd.io/CATALOG. The package has it in /usr/lib/systemd/catalog.
func Catalog() string {
	var b strings.Builder
	b.WriteString("# Made from docs/OPERATIONS.md: go test ./internal/alert -run TestCatalog " +
		"-update\n")
	for _, k := range append(slices.Clip(Kinds), TestKind) {
		meaning, steps := k.parts("@UBLK_REMAP_SET@")
		fmt.Fprintf(&b, "\n-- %s\nSubject: %s\nDefined-By: ublk-remap\n"+
			"Documentation: man:ublk-remap(8)\n\n%s\n", k.MessageID,
			strings.ReplaceAll(k.Section, "{set}", "@UBLK_REMAP_SET@"), meaning)
		if steps != "" {
			fmt.Fprintf(&b, "\n%s\n", steps)
		}
	}
	return b.String()
}
