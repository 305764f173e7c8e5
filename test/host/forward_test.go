package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"ublkremap/test/vmtest/system"
)

// forward lets a browser of this machine look at a port of a host in user-mode Linux, which has no
// network: requests and answers are files of a directory that both see (hostfs), one for each port.
// It returns the URL. The host needs curl. Pages that stream get what comes within some seconds,
// and the browser asks again.
func forward(t *testing.T, h *system.Host, dir string, port int) string {
	t.Helper()
	h.Run(fmt.Sprintf(`
mkdir -p /shared/%[1]d
mount -t hostfs none /shared/%[1]d -o %[2]s
cat >/run/forward-%[1]d <<'END'
while :; do
	for ask in /shared/%[1]d/*.ask; do
		[ -e "$ask" ] || continue
		n=${ask%%.ask}
		mv "$ask" "$n.busy"
		{
			path=$(cat "$n.busy")
			case $path in
			/live*) limit=5 ;;
			*) limit=50 ;; # a map may take long while disks fail
			esac
			curl -s -i --raw --http1.1 --max-time $limit --output "$n.tmp" \
				"http://127.0.0.1:%[1]d$path"
			sync "$n.tmp" && mv "$n.tmp" "$n.answer"
			rm "$n.busy"
		} &
	done
	sleep 0.05
done
END
systemd-run -q --unit forward-%[1]d sh /run/forward-%[1]d`, port, dir))
	var last atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := exchange(dir, last.Add(1), r.URL.RequestURI())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(body)), r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		for name, values := range got.Header {
			if name != "Content-Length" && name != "Transfer-Encoding" {
				w.Header()[name] = values
			}
		}
		w.WriteHeader(got.StatusCode)
		_, _ = io.Copy(w, got.Body) // a stream that was cut off ends with an error
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// exchange hands a path to the host and waits for the answer.
func exchange(dir string, n int64, path string) ([]byte, error) {
	ask := filepath.Join(dir, fmt.Sprintf("%d.ask", n))
	answer := filepath.Join(dir, fmt.Sprintf("%d.answer", n))
	if err := os.WriteFile(ask+".new", []byte(path), 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(ask+".new", ask); err != nil {
		return nil, err
	}
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(answer); err == nil {
			return b, os.Remove(answer)
		}
	}
	return nil, errors.New("the host does not answer")
}
