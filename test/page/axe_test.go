package page

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ublkremap/test/vmtest/kernel"
)

// axe-core is under the MPL-2.0 and is not part of this program. It is downloaded from npm.
const (
	axeVersion = "4.14.1"
	axeURL     = "https://registry.npmjs.org/axe-core/-/axe-core-" + axeVersion + ".tgz"
	axeSHA256  = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
)

// axe returns the script.
var axe = sync.OnceValues(func() (string, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return "", err
	}
	file := filepath.Join(cache, "axe-core-"+axeVersion+".tgz")
	tgz, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		tgz, err = download(file)
	}
	if err != nil {
		return "", err
	}
	if sum := sha256.Sum256(tgz); hex.EncodeToString(sum[:]) != axeSHA256 {
		return "", fmt.Errorf("%s is not what it should be: sha256 %x; remove it", file, sum)
	}
	gz, err := gzip.NewReader(bytes.NewReader(tgz))
	if err != nil {
		return "", err
	}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if err != nil {
			return "", fmt.Errorf("axe.min.js in %s: %w", file, err)
		}
		if h.Name == "package/axe.min.js" {
			js, err := io.ReadAll(r)
			return string(js), err
		}
	}
})

// download brings axe-core into the cache.
func download(file string) ([]byte, error) {
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Get(axeURL)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", axeURL, resp.Status)
	}
	tgz, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(tgz); hex.EncodeToString(sum[:]) != axeSHA256 {
		return nil, fmt.Errorf("%s is not what it should be: sha256 %x", axeURL, sum)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	// Several may download it at once.
	temp := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := os.WriteFile(temp, tgz, 0o644); err != nil {
		return nil, err
	}
	return tgz, os.Rename(temp, file)
}

// accessible fails the test if axe-core finds a violation in the page as it is.
func (w *tab) accessible(what string) {
	w.t.Helper()
	for _, f := range w.violations() {
		w.t.Errorf("%s: %s", what, f)
	}
}

// violations returns what axe-core finds in the page as it is.
func (w *tab) violations() []string {
	w.t.Helper()
	js, err := axe()
	if err != nil {
		w.t.Fatalf("axe-core is not to be had: %v", err)
	}
	if !eval[bool](w, "typeof axe === 'object'") {
		eval[bool](w, js+"; true")
	}
	found := eval[[]string](w, `axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a",
		"wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then((r) =>
		r.violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + v.help + ": " + n.html + " " +
			n.failureSummary)))`)
	for i, f := range found {
		found[i] = strings.Join(strings.Fields(f), " ")
	}
	return found
}

// fits fails the test if the page is wider than the window.
func (w *tab) fits() {
	w.t.Helper()
	got := eval[[]int](w, "[document.documentElement.scrollWidth, innerWidth]")
	if got[0] > got[1] {
		w.t.Errorf("the page is %d wide, the window %d", got[0], got[1])
	}
}

// TestViolationsAreFound: axe-core, as it is asked here, finds what it should. So nothing found
// means something.
func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	w := open(t, serve(t, states()).URL, 1200, 900)
	w.goTo("/")
	eval[bool](w, `document.querySelector("main").append(document.createElement("img")) ?? true`)
	eval[bool](w, `Boolean(document.querySelector("footer p").style.color = "#eee")`)
	found := strings.Join(w.violations(), "\n")
	for _, rule := range []string{"image-alt: ", "color-contrast: "} {
		if !strings.Contains(found, rule) {
			t.Errorf("%s was not found: %s", rule, found)
		}
	}
}

// TestAccessible: no violation of the rules of axe-core in any of the ways to look at the page.
func TestAccessible(t *testing.T) {
	t.Parallel()
	url := serve(t, states()).URL
	for _, c := range []struct {
		name, scheme string
		width        int64
	}{{"light", "light", 1200}, {"dark", "dark", 1200}, {"phone", "light", 390},
		{"phone-dark", "dark", 390}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := open(t, url, c.width, 900)
			w.media("screen", "prefers-color-scheme", c.scheme)
			w.goTo("/")
			w.accessible("the overview")
			w.fits()
			w.device("media")
			w.accessible("a failing device")
			w.fits()
		})
	}
}
