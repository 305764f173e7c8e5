package page

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/internal/page"
	"ublkremap/metadata"
)

// dies makes the server of a disk die.
func dies(d *disk) {
	d.st.State, d.st.Reason = control.StateFailed, "its server is dead; I/O waits for the next one"
	d.st.Action, d.st.ServerPID, d.final = "to go on: ublk-remap start lone", 0, true
}

// lives makes a server of a disk run again.
func lives(d *disk) {
	d.st.State, d.st.Reason, d.st.Action, d.st.ServerPID = control.StateLive, "", "", 4712
	d.final = false
}

// seen returns those of some elements that are seen.
func (w *tab) seen(selector string) []string {
	w.t.Helper()
	return eval[[]string](w, fmt.Sprintf(`[...document.querySelectorAll(%q)].filter((e) =>
		e.checkVisibility()).map((e) => e.id || e.innerText)`, selector))
}

// TestNoServer: a page without a server says so once for the map and once for the rest, and has no
// controls and no empty places. Once a server runs all of it is there.
func TestNoServer(t *testing.T) {
	t.Parallel()
	h, d := lone()
	dies(d)
	w := open(t, serve(t, h).URL, 1200, 900)
	w.goTo("/device/lone")
	w.live()
	w.mapIs("failed")
	for _, want := range []string{"Its figures are not known now: no server runs.",
		"There is no map now: no server runs."} {
		if text := eval[string](w, "document.body.innerText"); strings.Count(text, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, text)
		}
	}
	if got := w.seen("#recorded, #history, #latency, #health, #metadata, #events, button, " +
		"canvas, .surface-legend, .surface-table"); len(got) > 0 {
		t.Errorf("without a server there are %q", got)
	}
	if n := h.questions(); n > 0 {
		t.Errorf("%d questions to no server", n)
	}
	w.accessible("a device without a server")
	w.shot("no-server")
	h.change("lone", lives)
	w.mapIs("ready")
	w.until(`["latency", "health", "metadata", "events"].every((id) =>
		document.getElementById(id).checkVisibility())`)
}

// TestServerDies: what was known when the server died stays, and says that it is of then.
func TestServerDies(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.device("lone")
	w.live()
	h.change("lone", dies)
	w.until(`document.querySelector(".surface-scale").innerText.includes(
		"not up to date: no server runs")`)
	w.until(`document.getElementById("figures").innerText.includes(
		" spare units were free, 8 blocks were pending and 1 lost.")`)
	if w.looking("pending") != 1 {
		t.Error("the map has forgotten the pending block")
	}
	w.shot("server-dies")
	h.change("lone", lives)
	w.until(`!document.querySelector(".surface-scale").innerText.includes("not up to date")`)
	w.mapIs("ready")
}

// TestMapComesLater: a map that does not come is asked for again, and until then the page says in
// words what is amiss.
func TestMapComesLater(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	p := page.Handler(h, "1.2.3")
	var amiss atomic.Pointer[string]
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		how := amiss.Load()
		switch {
		case how == nil || !strings.HasSuffix(r.URL.Path, "/surface"):
			p.ServeHTTP(out, r)
		case *how == "cut":
			out.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(out, `{"from": 0, "cells": [`)
		case *how == "proxy":
			out.Header().Set("Content-Type", "text/html")
			out.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(out, "<h1>Bad Gateway</h1>")
		default:
			http.Error(out, *how, http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(func() {
		p.Close()
		s.CloseClientConnections()
		s.Close()
	})
	w := open(t, s.URL, 1200, 900)
	w.expect = []string{notOK}
	for how, want := range map[string]string{"cut": "the answer was cut short",
		"proxy":    "the answer was 502 Bad Gateway",
		"too many": "too many"} {
		amiss.Store(&how)
		w.goTo("/device/lone")
		w.until(fmt.Sprintf(`document.querySelector(".surface-note")?.innerText ===
			"The map did not come: %s. It is asked for again."`, want))
		w.mapIs("failed")
		w.shotOf("map-failed", "figure.surface")
		amiss.Store(nil)
		w.mapIs("ready")
	}
}

// TestNothingBad: a disk that is well has no bad place to go to.
func TestNothingBad(t *testing.T) {
	t.Parallel()
	h := &host{disks: []*disk{newDisk(0, "well", gib)}}
	w := open(t, serve(t, h).URL, 1200, 900)
	const off = `[...document.querySelectorAll(".surface-tools button")].filter((b) =>
		b.innerText.includes("bad")).every((b) => b.disabled)`
	w.device("well")
	if !eval[bool](w, off) {
		t.Error("there are ways to bad places, of which there are none")
	}
	w.live()
	h.change("well", func(d *disk) { d.is(metadata.StatePending, 1000, 1, 0xff) })
	w.until("!" + off)
}
