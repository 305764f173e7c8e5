package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"ublkremap/internal/config"
	"ublkremap/internal/readable"
)

// webhookTime is how long a webhook may take to answer.
const webhookTime = 15 * time.Second

// Webhook is a Way by HTTP: it posts JSON.
type Webhook struct {
	url    *url.URL
	token  string // path of a file
	client *http.Client
}

// NewWebhook returns a Webhook that posts to a URL. token and ca are paths of files, or empty: a
// token that is sent as 'Authorization: Bearer', and certificates of who signs those of the server.
func NewWebhook(to, token, ca string) (*Webhook, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, errors.New("the URL cannot be read")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if token != "" {
		if _, err := readSecret(token); err != nil {
			return nil, err
		}
	}
	if ca != "" {
		if err := trusted(ca); err != nil {
			return nil, err
		}
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %w: it has no certificate in the form PEM; want those of "+
				"who signs the webhook's", ca, config.ErrInvalid)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &Webhook{url: u, token: token, client: &http.Client{Transport: transport,
		Timeout: webhookTime,
		// The answer to a POST that leads elsewhere would be asked for without the alert.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}}, nil
}

// Name implements Way.
func (*Webhook) Name() string { return "webhook" }

// posted is the JSON of a message. Its names are stable.
type posted struct {
	Version int `json:"version"` // 1
	*Message
	Alerts []postedNotice `json:"alerts"`
}

type postedNotice struct {
	*Notice
	Severity Severity `json:"severity"`
	Meaning  string   `json:"meaning"`
	Steps    string   `json:"steps"`
	Runbook  string   `json:"runbook"`
}

func (m *Message) posted() *posted {
	p := &posted{Version: 1, Message: m, Alerts: []postedNotice{}}
	for _, n := range m.Notices {
		k := n.kind()
		meaning, steps := k.parts(n.Word)
		p.Alerts = append(p.Alerts, postedNotice{Notice: n, Severity: k.Severity,
			Meaning: meaning, Steps: steps, Runbook: k.Runbook()})
	}
	return p
}

// Send implements Way. Its errors do not have the URL, in which there may be a secret.
func (w *Webhook) Send(ctx context.Context, m *Message) error {
	body, err := json.Marshal(m.posted())
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url.String(),
		bytes.NewReader(body))
	if err != nil {
		return errors.New("the request cannot be made")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "ublk-remap")
	r.Header.Set("Idempotency-Key", m.ID)
	if w.token != "" {
		token, err := readSecret(w.token) // it may have been replaced
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := w.client.Do(r)
	if err != nil {
		if hidden := (*url.Error)(nil); errors.As(err, &hidden) {
			err = hidden.Err
		}
		return fmt.Errorf("%s: %w", w.url.Host, err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxOutput)
	if answer.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("%s answers %s", w.url.Host, readable.Text(answer.Status))
	switch c := answer.StatusCode; {
	case c == http.StatusTooManyRequests, c == http.StatusRequestTimeout, c/100 == 5:
		return err
	}
	return fmt.Errorf("%w: %w", err, errRefused)
}
