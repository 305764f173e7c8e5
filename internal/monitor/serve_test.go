package monitor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/crypto/bcrypt"

	"ublkremap/internal/control"
	"ublkremap/internal/latency"
)

// TestBounds: the buckets of both kinds of histogram have the bounds of package latency.
func TestBounds(t *testing.T) {
	for i := range latency.Buckets {
		h := &control.Histogram{Buckets: []control.Bucket{{Index: i, Count: 1}}}
		var m dto.Metric
		if err := newTimes(desc("x", "x", "y"), h, time.Now(), "a", "b").Write(&m); err != nil {
			t.Fatal(err)
		}
		// A value of the bucket is below its upper bound and above that of the one before.
		for _, b := range m.Histogram.Bucket {
			in := *b.CumulativeCount == 1
			if *b.UpperBound >= latency.Bound(i) && !in {
				t.Errorf("bucket %d is not in the classic one up to %v", i, *b.UpperBound)
			}
			if i > 0 && *b.UpperBound <= latency.Bound(i-1) && in {
				t.Errorf("bucket %d is in the classic one up to %v", i, *b.UpperBound)
			}
		}
		if i == 0 {
			if *m.Histogram.ZeroCount != 1 || *m.Histogram.ZeroThreshold != latency.Bound(0) {
				t.Errorf("the zero bucket: %v", m.Histogram)
			}
			continue
		}
		n, place := int64(0), int32(0)
		for k, delta := range m.Histogram.PositiveDelta {
			if n += delta; n == 1 {
				place = *m.Histogram.PositiveSpan[0].Offset + int32(k)
			}
		}
		upper := math.Ldexp(1, int(place))
		if i < latency.Buckets-1 && (latency.Bound(i) > upper || latency.Bound(i-1) < upper/2) {
			t.Errorf("bucket %d is in the native one up to %v", i, upper)
		}
	}
}

// TestNative: a scraper that asks for protobuf gets native histograms, which have the same count.
func TestNative(t *testing.T) {
	h, err := Handler(devices, "")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	d := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	for {
		var f dto.MetricFamily
		if err := d.Decode(&f); err != nil {
			t.Fatalf("no such family: %v", err)
		}
		if f.GetName() != "ublk_remap_request_duration_seconds" {
			continue
		}
		m := f.Metric[0].Histogram
		n, total := int64(0), int64(m.GetZeroCount())
		for _, delta := range m.PositiveDelta {
			n += delta
			total += n
		}
		if m.Schema == nil || *m.Schema != 0 || total != 7 || m.GetSampleCount() != 7 {
			t.Errorf("%v", m)
		}
		return
	}
}

// TestHang: a source that never answers does not hold up a scrape for ever, and no number of
// scrapes asks it twice.
func TestHang(t *testing.T) {
	defer func(old time.Duration) { scrapeTime = old }(scrapeTime)
	scrapeTime = 10 * time.Millisecond
	var asked atomic.Int32
	end := make(chan struct{})
	defer close(end)
	c := newCollector(func(context.Context) ([]Device, error) {
		asked.Add(1)
		<-end
		return nil, nil
	}).(*collector)
	for range 2 {
		if _, err := c.ask(); err == nil {
			t.Error("an answer")
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the source was asked %d times", n)
	}
}

// TestAsk: a hundred servers are asked. Those that are dead are not asked, and those that give no
// answer keep nothing of the others.
func TestAsk(t *testing.T) {
	var all []*control.Status
	for i := range 100 {
		st := &control.Status{Name: fmt.Sprint(i), State: control.StateLive, ServerPID: 1,
			Metadata: control.Metadata{Mirrors: make([]control.Mirror, 2)}}
		if i%10 == 3 {
			st.State = control.StateUnreachable
		}
		all = append(all, st)
	}
	devices := askWith(t.Context(), all, func(_ context.Context, set string) (*control.Latencies,
		error) {
		if strings.HasSuffix(set, "3") {
			t.Errorf("%s was asked", set)
		}
		if strings.HasSuffix(set, "5") {
			return nil, errors.New("no answer")
		}
		return &control.Latencies{TimedOneIn: len(set)}, nil
	})
	for i, d := range devices {
		if want := i%10 != 3 && i%10 != 5; d.Status != all[i] || (d.Latencies != nil) != want {
			t.Errorf("%d: %+v", i, d)
		}
	}
}

// certificate writes a certificate for this host, and returns who trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "m"},
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block),
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	return pool
}

// TestWebConfig: with a web configuration, only who has the password gets an answer, and only by
// TLS.
func TestWebConfig(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(config, []byte(`tls_server_config:
  cert_file: cert.pem
  key_file: key.pem
basic_auth_users:
  prometheus: `+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckWebConfig(config, nil); err != nil {
		t.Fatal(err)
	}
	listeners, err := Listen(t.Context(), []string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	address := listeners[0].Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, devices, listeners, Options{Config: config,
			Log: slog.New(slog.DiscardHandler)})
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool},
		DisableKeepAlives: true}}
	get := func(scheme, password string) (int, string) {
		r, err := http.NewRequest(http.MethodGet, scheme+"://"+address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			r.SetBasicAuth("prometheus", password)
		}
		var resp *http.Response
		for {
			if resp, err = client.Do(r); err == nil {
				break
			}
			select {
			case err := <-ended:
				t.Fatalf("it has ended: %v", err)
			case <-time.After(10 * time.Millisecond): // it does not listen yet
			}
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if code, body := get("https", "secret"); code != http.StatusOK ||
		!strings.Contains(body, "ublk_remap_server_up") {
		t.Errorf("with the password: %d: %s", code, body)
	}
	for _, wrong := range []string{"", "wrong"} {
		if code, body := get("https", wrong); code != http.StatusUnauthorized ||
			strings.Contains(body, namespace) {
			t.Errorf("with the password %q: %d: %s", wrong, code, body)
		}
	}
	if code, body := get("http", "secret"); code == http.StatusOK ||
		strings.Contains(body, namespace+"_") {
		t.Errorf("without TLS: %d: %s", code, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestTextfileIsWhole: whoever reads the directory while it is written sees whole files only.
func TestTextfileIsWhole(t *testing.T) {
	dir := t.TempDir()
	end := make(chan struct{})
	go func() {
		defer close(end)
		for range 50 {
			if err := WriteTextfile(dir, devices); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		text, err := os.ReadFile(filepath.Join(dir, textfileName))
		if err == nil && !strings.HasSuffix(string(text), "\n") ||
			err == nil && !strings.Contains(string(text), "ublk_remap_written_bytes_total") {
			t.Fatalf("a part: %q", text)
		}
		select {
		case <-end:
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 1 {
				t.Errorf("%v: %v", left, err)
			}
			return
		default:
		}
	}
}

// TestHostileNames: names of sets are anybody's. No name voids the scrape or adds a line of its
// own.
func TestHostileNames(t *testing.T) {
	names := []string{"a\"} 1\nublk_remap_evil 1\n", "\x00", "\xff\xfe", "\\", "{}", " ", "\u202e",
		strings.Repeat("n", 4096)}
	got := scrape(t, func(context.Context) (all []Device, err error) {
		for _, n := range names {
			all = append(all, Device{Status: &control.Status{Name: n, UUID: n, Backing: n,
				Device: n, State: control.StateFailed}})
		}
		return all, nil
	})
	lines := strings.Split(got, "\n")
	if slices.ContainsFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, "ublk_remap_evil")
	}) || strings.Count(got, "\nublk_remap_server_up{") != len(names) {
		t.Errorf("%s", got)
	}
}
