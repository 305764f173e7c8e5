package main

import (
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ublkremap/internal/alert"
	"ublkremap/internal/control"
	"ublkremap/internal/page"
	"ublkremap/internal/page/pagetest"
)

// alerted is a device that nothing is with but an alert.
func alerted(k *alert.Kind) *pagetest.Device {
	d := pagetest.Well(time.Now(), "media", 1<<40)
	d.Status.Device = "/dev/ublkb0"
	d.Status.Alerts = []control.Alert{{Kind: k.Name, Severity: string(k.Severity),
		Text: "Planted words.", Since: time.Now()}}
	return d
}

// wellWords are words that say that all is well.
var wellWords = []string{"all is well", "device is well", "devices are well"}

// TestPageOfAlerts: while an alert of any kind is there, neither the list nor the device's own page
// says that all is well; both say what is so, and what to do.
func TestPageOfAlerts(t *testing.T) {
	for _, k := range alert.Kinds {
		if k.Name == alert.MonitorFails {
			continue
		}
		h := &pagetest.Host{}
		h.Add(alerted(k))
		want(t, k.Name, h, "lanted words", "ublk-remap ", "media")
	}
	h := &pagetest.Host{}
	h.Add(pagetest.Well(time.Now(), "media", 1<<40))
	h.FailLists(pagetest.ErrList)
	wantPage(t, alert.MonitorFails, h, "/", pagetest.ErrList.Error())
}

func want(t *testing.T, what string, h page.Source, words ...string) {
	t.Helper()
	for _, path := range []string{"/", "/device/media"} {
		wantPage(t, what, h, path, words...)
	}
}

// wantPage looks at a page of a host until it has these words.
func wantPage(t *testing.T, what string, h page.Source, path string, words ...string) {
	t.Helper()
	p := page.Handler(h, "1")
	s := httptest.NewServer(p)
	defer s.Close()
	defer p.Close()
	text := ""
	for range 9 { // the first round may be over before a server has answered
		r, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		text = html.UnescapeString(string(body))
		if strings.Contains(text, words[0]) {
			break
		}
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: no %q on %s", what, w, path)
		}
	}
	for _, w := range wellWords {
		if strings.Contains(strings.ToLower(text), w) {
			t.Errorf("%s: %q is on %s", what, w, path)
		}
	}
}
