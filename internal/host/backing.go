package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
)

// Backing is a disk that somebody means to serve, as it was found.
type Backing struct {
	Path       string // absolute
	Superblock *metadata.Superblock
	// Newest: no other disk here carries the set, as far as they answer.
	Newest bool
}

// FindBacking finds the disk that somebody means by a path, or by the name or UUID of its set.
// Its superblock is read once.
func FindBacking(ctx context.Context, what string) (*Backing, error) {
	_, err := os.Stat(what)
	if err == nil {
		path, err := filepath.Abs(what)
		if err != nil {
			return nil, err
		}
		sb, err := set.Identify(ctx, path)
		if err != nil {
			return nil, err
		}
		return &Backing{Path: path, Superblock: sb}, nil
	}
	if strings.Contains(what, "/") {
		return nil, err
	}
	// The path that the name had last, if it still has it; else look around.
	if r, err := control.ReadRecord(what); err == nil {
		if sb, err := set.Identify(ctx, r.Backing); err == nil && sb.Name == what {
			return &Backing{Path: r.Backing, Superblock: sb}, nil
		}
	}
	path, sb, err := set.Find(ctx, what)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &Backing{Path: path, Superblock: sb, Newest: true}, nil
}

// Active reports whether the set of that name has a device, or a server.
func Active(name string) bool {
	r, err := control.ReadRecord(name)
	return err == nil && (control.Owned(name) || Present(r))
}
