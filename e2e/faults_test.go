package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// fault is something that goes wrong between the exporter and its Loki. Its
// URL is what the exporter is given; begin and end switch it.
type fault struct {
	url        string
	begin, end func() error
	// breaks says that nothing gets through while it lasts.
	breaks bool
}

// toxic is a fault of the connection: delayed, cut, broken off, silent.
func toxic(t *testing.T, target, toxic string, breaks bool) fault {
	t.Helper()
	upstream := strings.TrimPrefix(target, "http://")
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "loki", "127.0.0.1:0", upstream)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return fault{
		url: "http://" + p.Listen, breaks: breaks,
		begin: func() error {
			_, err := p.Toxics.AddToxicJson(strings.NewReader(toxic))
			return err
		},
		end: func() error {
			p.Toxics.ResetToxics(context.Background())
			return nil
		},
	}
}

// gone is a server that listens no more, and then does again.
func gone(t *testing.T, target string) fault {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "loki", "127.0.0.1:0", strings.TrimPrefix(target, "http://"))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return fault{url: "http://" + p.Listen, breaks: true, begin: func() error { p.Stop(); return nil }, end: p.Start}
}

// refusing answers with statuses, in turn with what Loki says, or alone.
func refusing(t *testing.T, target string, always bool, statuses ...int) fault {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	var on atomic.Bool
	var n atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of requests that were given up
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := n.Add(1)
		if !on.Load() || !always && i%2 == 0 {
			proxy.ServeHTTP(w, r)
			return
		}
		status := statuses[int(i)%len(statuses)]
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, "out of order", status)
	}))
	t.Cleanup(s.Close)
	set := func(v bool) func() error { return func() error { on.Store(v); return nil } }
	return fault{url: s.URL, breaks: always, begin: set(true), end: set(false)}
}

// Whatever goes wrong on the way to Loki and back, in the midst of the past and
// of what comes: when it is over, totals and findings are those of an exporter
// that saw none of it. Meanwhile it says that it is not ready, and how far behind.
func TestFaults(t *testing.T) {
	past := load(t, "multihost").EndAt(time.Now().Add(-3 * time.Hour))
	live := load(t, "clean-restart").Rename("git-1").EndAt(time.Now().Add(30 * time.Second))
	reading := "lag: 2s\n    max_lateness: 1h\n    timeout: 5s\n    audit_interval: 1s"
	calm := "faults-calm"
	push(t, calm, past)
	shipLive := func(tenant string) { // one stream: what comes behind its time is seen as a whole or not at all
		must(t, lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), live.Lines()))
	}
	shipLive(calm)
	undisturbed := daemonOf(t, config{tenant: calm, push: true, source: reading, lookback: "5h", more: brief}.write(t))

	faults := map[string]func(t *testing.T) fault{
		"slow": func(t *testing.T) fault {
			return toxic(t, loki.URL, `{"type":"latency","attributes":{"latency":300,"jitter":200}}`, false)
		},
		"cut": func(t *testing.T) fault {
			return toxic(t, loki.URL, `{"type":"reset_peer","attributes":{"timeout":20}}`, true)
		},
		"torn": func(t *testing.T) fault {
			return toxic(t, loki.URL, `{"type":"limit_data","attributes":{"bytes":9000}}`, false)
		},
		"silent": func(t *testing.T) fault {
			return toxic(t, loki.URL, `{"type":"timeout","attributes":{"timeout":0}}`, true)
		},
		"gone": func(t *testing.T) fault { return gone(t, loki.URL) },
		"some": func(t *testing.T) fault {
			return refusing(t, loki.URL, false, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway)
		},
		"refuses": func(t *testing.T) fault {
			return refusing(t, loki.URL, true, http.StatusServiceUnavailable, http.StatusBadGateway)
		},
	}
	t.Run("faults", func(t *testing.T) { // ends when all of them have
		for name, make := range faults {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				tenant := "faults-" + name
				push(t, tenant, past)
				f := make(t)
				must(t, f.begin())
				s := daemonOf(t, config{url: f.url, tenant: tenant, push: true, source: reading, lookback: "5h", more: brief}.write(t))
				suffer(t, s, f)
				caughtUpReading(t, s, time.Now().Add(-20*time.Second))

				must(t, f.begin())
				shipLive(tenant)
				suffer(t, s, f)
				caughtUp(t, s, live.End())
				caughtUp(t, undisturbed, live.End())
				same(t, s, undisturbed)
				s.Stop()
			})
		}
	})
	undisturbed.Stop()
	from, to := past.Lines()[0].Time.Add(-time.Minute), time.Now().Add(time.Hour)
	want := found(t, calm, from, to)
	for name := range faults {
		t.Run("findings after "+name, func(t *testing.T) {
			sameFindings(t, found(t, "faults-"+name, from, to), want)
		})
	}
	t.Logf("%d faults, twice each; %d findings", len(faults), len(want))
}

// suffer waits until a fault shows, or where it breaks nothing until something
// was read in spite of it, and then ends it.
func suffer(t *testing.T, s *lab.Server, f fault) {
	t.Helper()
	cursor, lag := -1.0, -1.0
	poll(t, s, "does not show its trouble", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		if c := lab.Sum(samples, "fail2ban_exporter_cursor_timestamp_seconds"); cursor < 0 {
			cursor, lag = c, lab.Sum(samples, "fail2ban_exporter_lag_seconds")
		} else if !f.breaks && c > cursor {
			return nil
		}
		_, err = lab.Get(ctx, s.URL+"/-/ready")
		switch {
		case err == nil:
			return errors.New("it is ready")
		case !f.breaks && !strings.Contains(err.Error(), "is being read"):
			return nil // it says what is wrong
		case !f.breaks:
			return errors.New("nothing was read yet")
		}
		if now := lab.Sum(samples, "fail2ban_exporter_lag_seconds"); cursor > 0 && now <= lag {
			return fmt.Errorf("the lag does not grow: %v", now)
		}
		return nil
	})
	must(t, f.end())
}

// same waits until two daemons show the same totals.
func same(t *testing.T, s, undisturbed *lab.Server) {
	t.Helper()
	poll(t, s, "has other totals", func(ctx context.Context) error {
		a, err := lab.Scrape(ctx, undisturbed.URL+"/metrics")
		if err != nil {
			return err
		}
		b, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		return differences(totals(b), totals(a))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Loki itself is stopped and started, in the midst of a back-fill and while it
// is followed: nothing is lost, nothing is there twice.
func TestLokiRestarts(t *testing.T) {
	dir := t.TempDir()
	start := func() *lab.Server {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := lab.StartLoki(ctx, lab.LokiOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)
		return s
	}
	var at atomic.Pointer[url.URL] // the Loki of now
	point := func(s *lab.Server) {
		to, err := url.Parse(s.URL)
		must(t, err)
		at.Store(to)
	}
	asked := make(chan struct{}, 1)
	way := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(at.Load())
			select {
			case asked <- struct{}{}:
			default:
			}
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
	})
	t.Cleanup(way.Close)

	first := start()
	point(first)
	past := load(t, "multihost").EndAt(time.Now().Add(-3 * time.Hour))
	live := load(t, "clean-restart").Rename("git-1").EndAt(time.Now().Add(15 * time.Second))
	ship := func(s *lab.Server, r *lab.Recording) {
		t.Helper()
		must(t, lab.Push(t.Context(), s.URL, "", lab.Spread(3), r.Lines()))
	}
	ship(first, past)
	reading := "lag: 2s\n    max_lateness: 1h\n    timeout: 5s\n    audit_interval: 1s"
	c := config{url: way.URL, push: true, source: reading, pageSize: 50}
	s := daemonOf(t, c.write(t))
	<-asked // the past is being read
	first.Stop()
	notReady(t, s)
	second := start()
	point(second)
	caughtUp(t, s, time.Now().Add(-20*time.Second))
	ship(second, live)
	second.Stop()
	notReady(t, s)
	third := start()
	point(third)
	caughtUp(t, s, live.End())

	fresh := daemonOf(t, config{url: third.URL, source: reading}.write(t))
	caughtUp(t, fresh, live.End())
	same(t, s, fresh)
	poll(t, s, "has not pushed all", func(ctx context.Context) error {
		entries, err := lab.QueryLoki(ctx, third.URL, "", `{job="fail2ban-loki-exporter", host!=""}`, past.Lines()[0].Time.Add(-time.Minute), time.Now())
		if err != nil {
			return err
		}
		seen, restores := map[string]bool{}, 0
		for _, e := range entries {
			if seen[e.Line] {
				t.Errorf("twice: %s", e.Line)
			}
			seen[e.Line] = true
			if strings.HasPrefix(e.Line, "finding=restore ") {
				restores++
			}
		}
		if want := past.CountLines(restoreLine); restores != want { // the live ones wait for what their attackers do
			return fmt.Errorf("%d findings of restores, %d lines", restores, want)
		}
		return nil
	})
	s.Stop()
}

func notReady(t *testing.T, s *lab.Server) {
	t.Helper()
	poll(t, s, "does not notice", func(ctx context.Context) error {
		if _, err := lab.Get(ctx, s.URL+"/-/ready"); err == nil {
			return errors.New("it is ready")
		}
		return nil
	})
}
