package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// Receivers that hang, cut, answer 500, or 429 for an hour: the metrics do not
// wait for them, the good one has all, and the end of the program is not held up.
func TestBadReceivers(t *testing.T) {
	tenant, _ := stepBack(t, "multihost")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	answer := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	more := ""
	for _, url := range []string{
		"http://" + silent.Addr().String(),
		answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", http.StatusInternalServerError) }),
		answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			http.Error(w, "slow down", http.StatusTooManyRequests)
		}),
	} {
		more += fmt.Sprintf("  - url: %q\n    timeout: 30s\n", url)
	}
	want := reportOf(t, config{tenant: tenant, lookback: "2h", more: brief}.write(t))
	s := daemon(t, config{tenant: tenant, push: true, lookback: "2h", clients: more, more: brief})
	start := time.Now()
	poll(t, s, "is not ready", func(ctx context.Context) error {
		_, err := lab.Get(ctx, s.URL+"/-/ready")
		return err
	})
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("ready after %v: it waited for a receiver", took)
	}
	want.becomes(t, s, tenant)
	metricsBecome(t, s, func(samples []lab.Sample) error {
		for _, m := range samples {
			if m.Name == "fail2ban_exporter_sink_dropped_total" && m.Value > 0 {
				return fmt.Errorf("dropped: %v", m)
			}
		}
		return nil
	})
	start = time.Now()
	s.Stop()
	if took := time.Since(start); took > 15*time.Second || s.ExitCode() != 0 {
		t.Errorf("ended after %v with code %d", took, s.ExitCode())
	}
}
