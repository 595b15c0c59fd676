package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// Receivers that hang, cut, answer 500, or 429 for an hour: the metrics do not
// wait for them, the good one has all, and the end of the program is not held up.
func TestBadReceivers(t *testing.T) {
	tenant, _ := stepBack(t, "multihost")
	more := badReceivers(t, "30s", "64MiB")
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

// badReceivers are clients in YAML whose servers hang, cut, answer 500, and 429
// for an hour.
func badReceivers(t *testing.T, timeout, queue string) (clients string) {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	must(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	answer := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	for _, url := range []string{
		"http://" + silent.Addr().String(),
		answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		answer(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "out of order", http.StatusInternalServerError)
		}),
		answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			http.Error(w, "slow down", http.StatusTooManyRequests)
		}),
	} {
		clients += fmt.Sprintf("  - url: %q\n    timeout: %s\n    batchsize: 4096\n    queue_size: %s\n    queue_wait: 1s\n", url, timeout, queue)
	}
	return clients
}

// SOAK says for how long: hosts under attack are followed while all receivers
// but one are out of order. What waits for them is bounded, so the memory in use
// is that of the time when their queues had filled.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(cmp.Or(os.Getenv("SOAK"), "40s"))
	must(t, err)
	const tenant = "soak-sinks"
	fleet := lab.Fleet{Hosts: 5, Jails: 3, Days: 1, Lines: 8_000_000, From: time.Now().UTC(), Seed: 2, IDs: 100, BanTime: 20 * time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	shipped := make(chan error, 1)
	go func() { shipped <- lab.Follow(ctx, loki.URL, tenant, fleet) }()
	s := daemonOf(t, config{tenant: tenant, push: true, lookback: "1h", source: "lag: 1s", clients: badReceivers(t, "2s", "8KiB")}.write(t), "--web.enable-pprof")
	once := func() (mib float64) {
		t.Helper()
		page, err := lab.Get(t.Context(), s.URL+"/debug/pprof/heap?gc=1&debug=1")
		must(t, err)
		_, rest, _ := strings.Cut(string(page), "# HeapAlloc = ")
		bytes, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(bytes, 64)
		must(t, err)
		return n / (1 << 20)
	}
	// What is on its way just then comes and goes: the least of some readings stays.
	heap := func() float64 {
		least := once()
		for range 5 {
			<-time.After(time.Second)
			least = min(least, once())
		}
		return least
	}
	<-time.After(length / 2)
	half := heap()
	must(t, <-shipped)
	last := heap()
	caughtUpReading(t, s, time.Now().Add(-20*time.Second))
	samples, err := lab.Scrape(t.Context(), s.URL+"/metrics")
	must(t, err)
	dropped := lab.Sum(samples, "fail2ban_exporter_sink_dropped_total")
	t.Logf("%v: %v lines, heap %.1f MiB, half-way %.1f; %v findings dropped", length, lab.Sum(samples, "fail2ban_exporter_lines_total"), last, half, dropped)
	most := 1.1 * half
	if length < 5*time.Minute {
		most++ // the lists of what is shown, which are bounded too, still fill
	}
	if last > most {
		t.Errorf("the heap grew from %.1f to %.1f MiB", half, last)
	}
	if dropped == 0 {
		t.Error("no queue was ever full")
	}
	s.Stop()
}
