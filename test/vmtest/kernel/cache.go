package kernel

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CacheEnv names the environment variable that overrides the cache directory.
const CacheEnv = "UBLK_REMAP_CACHE"

// CacheDir is the directory of the project's downloads: $UBLK_REMAP_CACHE, or
// ublk-remap in the user's cache directory ($XDG_CACHE_HOME, ~/.cache). The
// directory is made if it is missing.
func CacheDir() (string, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			// cron and CI jobs may run without HOME.
			base = "/var/cache"
		}
		dir = filepath.Join(base, "ublk-remap")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// Lock takes the lock file dir/name exclusively, waiting for the process that holds
// it, and returns the function that lets go. The lock ends with the process.
func Lock(dir, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}
