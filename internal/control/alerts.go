package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// Alert is an alert of the monitor about a device, that is there.
type Alert struct {
	Kind     string    `json:"alert"`    // its name, such as slow
	Severity string    `json:"severity"` // critical or warning
	Text     string    `json:"text"`     // a sentence
	Since    time.Time `json:"since"`
	// Acknowledged is when somebody said that it is known. null: nobody has.
	Acknowledged *time.Time `json:"acknowledged"`
}

// AlertsPath is where the monitor that tells of alerts listens. No set has a name that begins with
// a point.
func AlertsPath() string { return filepath.Join(Dir(), ".alerts.sock") }

// alertsTime is how long the monitor may take to list its alerts: nobody is kept by a monitor that
// hangs.
const alertsTime = 2 * time.Second

// Alerts returns the alerts that are there, by the UUIDs of the sets. A set without one is called
// by its name.
func Alerts(ctx context.Context) (map[string][]Alert, error) {
	ctx, cancel := context.WithTimeout(ctx, alertsTime)
	defer cancel()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		MaxResponseHeaderBytes: maxHeader,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return Dial(ctx, AlertsPath())
		}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://monitor/v1/alerts", nil)
	if err != nil {
		return nil, err
	}
	got, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the monitor: %s", got.Status)
	}
	var list []struct {
		Alert
		Set  string `json:"set"`
		UUID string `json:"uuid"`
	}
	if err := json.NewDecoder(io.LimitReader(got.Body, maxAnswer)).Decode(&list); err != nil {
		return nil, fmt.Errorf("the monitor: %w", err)
	}
	all := map[string][]Alert{}
	for _, l := range list {
		key := cmp.Or(l.UUID, l.Set)
		all[key] = append(all[key], l.Alert)
	}
	return all, nil
}

// AddAlerts adds to these statuses the alerts that are there. Without a monitor it adds none.
func AddAlerts(ctx context.Context, all ...*Status) {
	if alerts, err := Alerts(ctx); err == nil {
		for _, st := range all {
			st.AddAlerts(alerts)
		}
	}
}

// AddAlerts adds those of these alerts that are about the device. nil: no monitor tells of any.
func (s *Status) AddAlerts(alerts map[string][]Alert) {
	if alerts == nil {
		return
	}
	s.Alerts = append([]Alert{}, alerts[cmp.Or(s.UUID, s.Name)]...)
}
