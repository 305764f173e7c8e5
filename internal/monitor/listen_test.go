package monitor

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// TestListen: what is no address of this host is refused, and what can be one at another time is
// another error. Either names the address, and if one of several fails none is listened on.
func TestListen(t *testing.T) {
	for _, bad := range []string{"", ":", "localhost", "localhost:", "127.0.0.1", "::1:80", "[::1]",
		"127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "http://localhost:80", "127.0.0.1:80/",
		"vsock://:80", "192.0.2.1:0", "no such host:80"} {
		all, err := Listen(t.Context(), []string{"127.0.0.1:0", bad})
		var refused *AddressError
		if !errors.As(err, &refused) || refused.Address != bad || !strings.Contains(refused.Want,
			"want") || all != nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
	all, err := Listen(t.Context(), []string{"127.0.0.1:0", "localhost:0"})
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	defer all[1].Close()
	taken := all[0].Addr().String()
	if _, err = Listen(t.Context(), []string{"127.0.0.1:0", taken}); err == nil ||
		errors.As(err, new(*AddressError)) || !strings.HasPrefix(err.Error(), `"`+taken+`": `) ||
		!strings.Contains(err.Error(), "choose another port") {
		t.Errorf("an address that is taken: %v", err)
	}
	if _, err := Listen(t.Context(), []string{"127.0.0.1:9", "127.0.0.1:9"}); !errors.As(err,
		new(*AddressError)) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same twice: %v", err)
	}
	// What was listened on before the error is free again.
	free := freeAfter(t, all[0])
	if _, err := Listen(t.Context(), []string{free, all[1].Addr().String()}); err == nil {
		t.Error("an address that is taken")
	}
	again, err := Listen(t.Context(), []string{free})
	if err != nil {
		t.Fatal(err)
	}
	again[0].Close()
}

// freeAfter closes a listener, and returns its address.
func freeAfter(t *testing.T, l net.Listener) string {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}
