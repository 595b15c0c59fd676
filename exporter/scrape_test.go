package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// wide is a daemon that serves 10,000 series of 27 hosts with ten jails each.
func wide(t testing.TB) (*daemon, http.Handler) {
	t.Helper()
	registry := prometheus.NewRegistry()
	d := &daemon{registry: registry, self: publish.NewSelf(registry)}
	d.metrics = publish.NewMetrics(publish.MetricsOptions{}, d.self)
	v := &publish.View{At: time.Unix(1_800_000_000, 0), CaughtUp: true, Sources: make([]publish.SourceReport, 1)}
	for h := range 27 {
		host := correlate.HostReport{Host: fmt.Sprintf("web-%02d.example.org", h), FirstLine: v.At, LastLine: v.At, Running: correlate.Known(true), Version: "1.1.0"}
		for j := range 10 {
			host.Jails = append(host.Jails, correlate.JailReport{
				Jail: fmt.Sprintf("nginx-jail-%d", j), FirstLine: v.At, LastLine: v.At, BanTime: correlate.Known(time.Hour), FindTime: correlate.Known(time.Minute), MaxRetry: correlate.Known(5),
				Counts: correlate.Counts{Failures: 123456, Bans: [4]uint64{2345, 1}, Verbs: [11]uint64{123456, 2345}},
			})
		}
		v.Sources[0].Report.Hosts = append(v.Sources[0].Report.Hosts, host)
	}
	d.metrics.Set(v)
	return d, d.metricsHandler()
}

// page is what a scrape gets.
type page struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (p *page) Header() http.Header  { return p.header }
func (p *page) WriteHeader(code int) { p.code = code }

func (p *page) get(h http.Handler, header http.Header) {
	p.Reset()
	p.header, p.code = http.Header{}, http.StatusOK
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header = header
	h.ServeHTTP(p, r)
}

// asPrometheus is how a Prometheus asks.
var asPrometheus = http.Header{
	"Accept":          {"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"},
	"Accept-Encoding": {"gzip"},
}

// backfilling feeds lines until it is stopped: what a back-fill takes of the machine.
func backfilling(t testing.TB) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		at := time.Unix(1_700_000_000, 0).UTC()
		for {
			feed := pipeline.NewFeed(pipeline.FeedOptions{Newest: at.Add(24 * time.Hour)})
			for i := range 50_000 {
				select {
				case <-done:
					return
				default:
				}
				at = at.Add(10 * time.Millisecond)
				feed.Add(pipeline.Line{Host: "web", At: at, Stream: "a", Text: at.Format("2006-01-02 15:04:05,000") + fmt.Sprintf(" fail2ban.filter [7]: INFO [sshd] Found 192.0.%d.%d", i/250%250, i%250)})
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// A scrape waits for nothing and makes nothing: it allocates less than the page
// has bytes, also where the page is packed.
func TestScrapeAllocatesLittle(t *testing.T) {
	_, h := wide(t)
	for name, header := range map[string]http.Header{"plain": {}, "as Prometheus": asPrometheus} {
		var p page
		p.get(h, header) // what is made once
		size := plainSize(t, &p)
		const rounds = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rounds {
			p.get(h, header)
		}
		runtime.ReadMemStats(&after)
		each := int(after.TotalAlloc-before.TotalAlloc) / rounds
		t.Logf("%s: a page of %d bytes, %d on the wire, allocates %d", name, size, p.Len(), each)
		if each > size {
			t.Errorf("%s: %d bytes are allocated for a page of %d", name, each, size)
		}
	}
}

// plainSize is how long a page is, unpacked. It has the series that it shall have.
func plainSize(t *testing.T, p *page) int {
	t.Helper()
	var r io.Reader = bytes.NewReader(p.Bytes())
	if p.header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count("\n"+string(text), "\nfail2ban_"); n < 10_000 || p.code != http.StatusOK {
		t.Fatalf("%d series, status %d", n, p.code)
	}
	return len(text)
}

// Who asks gets the form that he understands, and no more than he can place.
func TestFormsOfThePage(t *testing.T) {
	_, h := wide(t)
	for accept, want := range map[string]struct {
		kind            string
		created, native bool
	}{
		"":                             {"text/plain; version=0.0.4", false, false},
		"text/plain":                   {"text/plain; version=0.0.4", false, false},
		asPrometheus.Get("Accept"):     {"application/openmetrics-text; version=1.0.0", false, false},
		"application/openmetrics-text": {"application/openmetrics-text; version=0.0.1", true, false},
		"application/openmetrics-text; version=1.0.0": {"application/openmetrics-text; version=1.0.0", true, false},
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3": {"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", false, true},
	} {
		var p page
		p.get(h, http.Header{"Accept": {accept}})
		if got := p.header.Get("Content-Type"); !strings.HasPrefix(got, want.kind) {
			t.Errorf("%q: %s, want %s", accept, got, want.kind)
		}
		if got := strings.Contains(p.String(), "fail2ban_bans_created{"); got != want.created {
			t.Errorf("%q: since when counters count is there: %v", accept, got)
		}
		if got := natives(t, &p); got > 0 != want.native || got != 0 && got != 2*270 {
			t.Errorf("%q: %d native histograms of 27 hosts with ten jails", accept, got)
		}
	}
}

// natives counts the log's native histograms on a page, which protobuf alone has.
func natives(t *testing.T, p *page) (n int) {
	t.Helper()
	if !strings.HasPrefix(p.header.Get("Content-Type"), "application/vnd.google.protobuf") {
		return 0
	}
	decoder := expfmt.NewDecoder(bytes.NewReader(p.Bytes()), expfmt.ResponseFormat(p.header))
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); errors.Is(err, io.EOF) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		for _, m := range f.GetMetric() {
			if m.GetHistogram() != nil && m.GetHistogram().Schema != nil && !strings.HasPrefix(f.GetName(), "fail2ban_exporter_") {
				n++
			}
		}
	}
}

// BenchmarkScrape is a scrape of 10,000 series while a back-fill runs. The bar is
// 20 ms.
func BenchmarkScrape(b *testing.B) {
	_, h := wide(b)
	for name, header := range map[string]http.Header{"plain": {}, "prometheus": asPrometheus} {
		b.Run(name, func(b *testing.B) {
			defer backfilling(b)()
			var p page
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				p.get(h, header)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
			b.SetBytes(int64(p.Len()))
		})
	}
}
