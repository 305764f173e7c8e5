package breaker

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest"
)

// row is a line of the table.
type row struct {
	fault   string // what happens to the disk
	made    string // by what
	errno   string // that direct I/O to the disk gets
	answer  string // what the user of the device sees
	spares  string // units used
	breaker string
	after   string // what brings it back
}

var (
	rowsMu sync.Mutex
	rows   []row
)

func (r row) add() {
	rowsMu.Lock()
	defer rowsMu.Unlock()
	rows = append(rows, r)
}

// TestMain prints the table when all is done.
func TestMain(m *testing.M) {
	code := m.Run()
	if testing.Verbose() && len(rows) > 0 {
		fmt.Printf("\n| fault (Linux %s) | made by | errno | the user sees | spares | breaker | "+
			"afterwards |\n| --- | --- | --- | --- | --- | --- | --- |\n",
			vmtest.KernelRelease())
		for _, r := range rows {
			fmt.Printf("| %s |\n", strings.Join([]string{r.fault, r.made, r.errno, r.answer,
				r.spares, r.breaker, r.after}, " | "))
		}
	}
	os.Exit(code)
}

func errnoName(err error) string {
	var e syscall.Errno
	switch {
	case err == nil:
		return "success"
	case err == syscall.EOPNOTSUPP:
		return "EOPNOTSUPP" // the same number as ENOTSUP
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	}
	return err.Error()
}

func join(words []string, sep string) string { return strings.Join(words, sep) }
