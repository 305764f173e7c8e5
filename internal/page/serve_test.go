package page_test

import (
	"flag"
	"net"
	"net/http"
	"testing"

	"ublkremap/internal/page"
	"ublkremap/internal/page/pagetest"
)

var (
	serve = flag.String("serve", "", "TestServe: address to serve the page of a made-up host at")
	many  = flag.Int("many", 0, "TestServe: how many devices; 0: one in each state")
)

// TestServe serves the page until it is interrupted, to look at.
func TestServe(t *testing.T) {
	if *serve == "" {
		t.Skip("it is for people, with -serve=127.0.0.1:8080")
	}
	h := pagetest.New(nil)
	if *many > 0 {
		h = pagetest.NewMany(*many)
	}
	p := page.Handler(h, "test")
	defer p.Close()
	l, err := net.Listen("tcp", *serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Fatal(http.Serve(l, p))
}
