package loki

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/dskit/backoff"
	promconfig "github.com/prometheus/common/config"
)

// handled makes a client of a server with this handler.
func handled(t *testing.T, h http.HandlerFunc, change func(*Options)) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		URL: u, HTTP: promconfig.DefaultHTTPClientConfig, PageSize: 5,
		Backoff: backoff.Config{MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, MaxRetries: 3},
	}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// An error ends the sequence even for a reader that goes on: what came after
// would hide that something is missing.
func TestAnErrorIsTheEnd(t *testing.T) {
	calls := 0
	c := handled(t, func(w http.ResponseWriter, _ *http.Request) {
		calls++
		http.Error(w, "no org id", http.StatusUnauthorized)
	}, func(o *Options) { o.MaxWindow = time.Minute })
	n := 0
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(time.Hour)) {
		if n++; err == nil {
			t.Error("a value without an error")
		}
	}
	if n != 1 || calls != 1 {
		t.Errorf("%d values after %d calls", n, calls)
	}
}

// subsets is a Loki with streams whose labels contain each other, which reads
// the query's matchers as Loki does: an absent label is an empty one.
type subsets struct {
	streams []map[string]string
	lines   int
	limit   int
	noNames bool // the series are not told
}

func (s *subsets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if strings.HasSuffix(r.URL.Path, "/series") {
		data := s.streams
		if s.noNames {
			data = nil
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data})
		return
	}
	limit, _ := strconv.Atoi(q.Get("limit"))
	if limit > s.limit {
		http.Error(w, fmt.Sprintf("max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", limit, s.limit), http.StatusBadRequest)
		return
	}
	sel, err := parseLogQuery(q.Get("query"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var out []any
	for _, st := range s.streams {
		chosen := true
		for _, m := range sel.Matchers() {
			chosen = chosen && m.Matches(st[m.Name])
		}
		var values []any
		for i := range s.lines {
			if chosen && limit > 0 {
				values = append(values, []any{strconv.FormatInt(epoch.UnixNano(), 10), strconv.Itoa(i)})
				limit--
			}
		}
		if len(values) > 0 {
			out = append(out, map[string]any{"stream": st, "values": values})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": out}})
}

// A stream whose labels are among another's is read alone too.
func TestInstantOfStreamsThatContainEachOther(t *testing.T) {
	s := &subsets{lines: 3, limit: 4, streams: []map[string]string{
		{"job": "fail2ban"},
		{"job": "fail2ban", "host": "a"},
		{"job": "fail2ban", "host": "a", "filename": "/f"},
	}}
	c := handled(t, s.ServeHTTP, nil)
	var got, want []string
	for e, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(1)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Stream.Key+" "+e.Line)
	}
	for _, st := range s.streams {
		for i := range s.lines {
			want = append(want, keyOf(st)+" "+strconv.Itoa(i))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Where the streams of a crowded instant are not told, the rest of it cannot
// be read: that is an error, not the end of the instant.
func TestInstantWithoutSeries(t *testing.T) {
	s := &subsets{lines: 9, limit: 4, noNames: true, streams: []map[string]string{{"job": "fail2ban"}}}
	c := handled(t, s.ServeHTTP, nil)
	var last error
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(1)) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), epoch.UTC().Format(time.RFC3339Nano)) {
		t.Errorf("%v", last)
	}
}

// An answer that is whole but not Loki's stays so however often it is asked
// for: a proxy's login page, a query that gives numbers.
func TestForeignAnswersAreFinal(t *testing.T) {
	for body, want := range map[string]string{
		"<html>Sign in": "no answer of Loki's API",
		`{"status":"success","data":{"resultType":"matrix","result":[]}}`:                `"matrix", not log lines`,
		`{"status":"success","data":{"resultType":"streams","result":[{"values":[1]}]}}`: "no answer of Loki's API",
	} {
		calls := 0
		c := handled(t, func(w http.ResponseWriter, _ *http.Request) {
			calls++
			_, _ = w.Write([]byte(body))
		}, nil)
		_, err := readAll(context.Background(), c, time.Second)
		if err == nil || !strings.Contains(err.Error(), want) || calls != 1 {
			t.Errorf("%s: %d calls: %v", body, calls, err)
		}
	}
}

// Ready is not fooled by a page that says 200 to everything.
func TestReadyWantsLoki(t *testing.T) {
	c := handled(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>Sign in")) }, nil)
	if err := c.Ready(context.Background()); err == nil {
		t.Error("a web page passes for Loki")
	}
}

// Without a configured backoff a server in trouble is not hammered.
func TestDefaultBackoff(t *testing.T) {
	c := handled(t, nil, func(o *Options) { o.Backoff = backoff.Config{} })
	if c.o.Backoff.MinBackoff <= 0 || c.o.Backoff.MaxBackoff <= 0 {
		t.Errorf("%+v", c.o.Backoff)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"-1":                            0,
		"99999999999":                   maxRetryAfter,
		"86400":                         maxRetryAfter,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:00:00 GMT": 0,
		"soon":                          0,
	} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// A cancel while Loki is thinking ends the reading at once, as a cancel.
func TestCancelInFlight(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	c := handled(t, func(_ http.ResponseWriter, r *http.Request) {
		calls++
		cancel()
		<-r.Context().Done()
	}, nil)
	_, err := readAll(ctx, c, time.Second)
	if err == nil || ctx.Err() == nil || calls != 1 {
		t.Errorf("%d calls: %v", calls, err)
	}
}

// A limit whose refusal says no number is found by halving.
func TestLimitWithoutNumbers(t *testing.T) {
	c := handled(t, func(w http.ResponseWriter, r *http.Request) {
		if l, _ := strconv.Atoi(r.URL.Query().Get("limit")); l > 700 {
			http.Error(w, "max entries limit per query exceeded", http.StatusBadRequest)
			return
		}
		_, _ = w.Write([]byte(`{"status":"success","data":{"resultType":"streams","result":[]}}`))
	}, func(o *Options) { o.PageSize = 5000 })
	if _, err := readAll(context.Background(), c, time.Second); err != nil {
		t.Error(err)
	}
}
