package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"ublkremap/metadata"
)

// version is set by the linker.
var version string

// programVersion returns the version that was set by the linker, or else what Go knows of the
// checkout.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// versionInfo is what version --json prints.
type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Format  int    `json:"format"` // of the metadata
}

func versionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: programVersion(), Go: runtime.Version(), OS: runtime.GOOS,
				Arch: runtime.GOARCH, Format: metadata.Version}
			if a.json {
				return a.printJSON(v)
			}
			_, err := fmt.Fprintf(a.out, "ublk-remap %s (%s, %s/%s, metadata format v%d)\n",
				v.Version, v.Go, v.OS, v.Arch, v.Format)
			return err
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
