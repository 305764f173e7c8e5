package main

import (
	"encoding/json"
	"fmt"
	"os"

	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
)

// toldEnv is how start tells the processes that it starts which disk it has found, so that they
// need not read its superblock again. It is no flag: the command line of a server is what
// upgrade reads, also that of an older version, which refuses flags that it does not know.
const toldEnv = "UBLK_REMAP_BACKING"

// told is what start has found out about a disk.
type told struct {
	What    string       `json:"what"` // as the user named it
	Backing string       `json:"backing"`
	Set     set.Identity `json:"set"`
}

// tell is what there is to tell about a disk.
func tell(what string, b *host.Backing) *told {
	return &told{What: what, Backing: b.Path, Set: set.IdentityOf(b.Superblock)}
}

// env is the environment of a process that is to know it.
func (t *told) env() ([]string, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	return append(os.Environ(), toldEnv+"="+string(text)), nil
}

// heard is what this process was told about a disk that the user named, nil if nothing.
func heard(what string) (*told, error) {
	text := os.Getenv(toldEnv)
	_ = os.Unsetenv(toldEnv) // no child of this process takes it for its own
	if text == "" {
		return nil, nil
	}
	var t told
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return nil, fmt.Errorf("%s: %w", toldEnv, err)
	}
	if t.What != what {
		return nil, nil // of another start
	}
	return &t, nil
}
