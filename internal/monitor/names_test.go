package monitor

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestOwnNames: by a loopback address, this host answers to its own names and to addresses only.
func TestOwnNames(t *testing.T) {
	s := httptest.NewServer(ownNames(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "secret")
	})))
	defer s.Close()
	for host, want := range map[string]int{"127.0.0.1:9947": 200, "localhost": 200,
		"localhost:9947": 200, "LocalHost.": 200, "disks.localhost:1": 200, "[::1]:9947": 200,
		"192.0.2.7": 200, "evil.example": 421, "evil.example:9947": 421, "notlocalhost": 421,
		"localhost.evil.example": 421, "127.0.0.1.evil.example": 421} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || (string(body) == "secret") != (want == 200) {
			t.Errorf("%s: %d, want %d", host, resp.StatusCode, want)
		}
	}
	if got := withoutName(t, s.Listener.Addr()); !strings.HasSuffix(got, "\r\n\r\nsecret") {
		t.Errorf("without a name: %q", got)
	}
	if !ownName("disks.example.org:9947", "disks.example.org") || ownName("", "") {
		t.Error("its own name")
	}
}

// withoutName returns the answer to a request as simple scripts send it, without a Host header.
func withoutName(t *testing.T, at net.Addr) string {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), at.Network(), at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}
