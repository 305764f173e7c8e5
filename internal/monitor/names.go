package monitor

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// ownNames refuses requests that reach this host by one of its loopback addresses, but under a name
// that is not its own.
//
// Otherwise a page from anywhere, opened in a browser of this host, could read all that is served
// here: its site lets its own name stand for 127.0.0.1 a moment later (DNS rebinding), and the
// browser takes the answers for those of that site. Nothing can be changed here, but names of
// disks and hosts are nobody else's business. An address is no name, so it cannot be rebound. Nor
// is a request without a name from a browser: that is a script that speaks HTTP/1.0.
//
// Who listens on other addresses has names that are not known here. A web configuration with users
// or a certificate does the same there, and better.
func ownNames(h http.Handler) http.Handler {
	own, _ := os.Hostname()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if loopback(r) && r.Host != "" && !ownName(r.Host, own) {
			http.Error(w, "this host is not called that; ask for it as localhost or 127.0.0.1 (a "+
				"proxy in front has to send such a Host header)", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// loopback reports whether a request has come by a loopback address.
func loopback(r *http.Request) bool {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	where, err := netip.ParseAddrPort(at.String())
	return err == nil && where.Addr().Unmap().IsLoopback()
}

// ownName reports whether a Host header has a name that only this host can have, or an address.
func ownName(host, own string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(host, ".")
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") || own != "" && strings.EqualFold(host, own) ||
		strings.HasSuffix(strings.ToLower(host), ".localhost")
}
